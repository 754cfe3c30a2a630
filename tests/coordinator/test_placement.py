from itertools import permutations
from pathlib import Path

import msgspec
import pytest

from coordinator.fleet.placement import machines
from coordinator.fleet.places import places
from coordinator.fleet.report import HostReport
from coordinator.plan.plan import Demand, Plan
from coordinator.plan.planner import plan
from coordinator.plan.sources import model_cost
from coordinator.seat import Seat
from worker.agent.messages import Device, Hail, RoundTrip, Surveyed, Versions
from worker.errors import ConfigError

GIB = 2**30
SUPER = model_cost("super", "8:32")
KEYS = {"north": "N", "south": "S"}


def report(name: str, *devices: Device, trips: tuple[float, ...] = ()) -> HostReport:
    hail = Hail(
        protocol=1,
        name=name,
        pid=1,
        address=f"10.0.0.{len(name)}",
        echo="",
        versions=Versions(stageline="1", python="3", mlx="1"),
        platform="",
        devices=devices,
        clock=0.0,
    )
    round_trips = tuple(RoundTrip(peer="other", seconds=seconds, nbytes=8192) for seconds in trips)
    return HostReport(name, hail, Surveyed(model_hash="", problem="", round_trips=round_trips, devices=devices), 0.0)


def mac(gib: int, bandwidth: float = 0.0) -> Device:
    return Device(chip="M3 Ultra", memory_bytes=gib * GIB, bandwidth=bandwidth)


def test_hosts_of_one_device_carry_the_hosts_name_and_its_measured_link() -> None:
    north, south = machines([report("north", mac(256), trips=(0.0006, 0.0004, 0.002)), report("south", mac(96, 5e11))])
    assert (north.name, south.name) == ("north", "south")
    assert (north.memory, south.memory) == (256 * GIB, 96 * GIB)
    assert north.link.latency == pytest.approx(0.0002)  # the others are slower for their own sake
    assert south.read == pytest.approx(5e11)
    assert north.read == pytest.approx(0.845 * 819e9)


def test_the_larger_host_gets_more_layers() -> None:
    found = places(SUPER, [report("north", mac(192)), report("south", mac(64))], stages=None, lock=None, keys=KEYS)
    (first, second), (north, south) = found.layers, found.seats
    assert (first[0], second[1], first[1]) == (0, 88, second[0])
    assert {north.host, south.host} == {"north", "south"}
    sizes = {seat.host: end - begin for seat, (begin, end) in zip(found.seats, found.layers, strict=True)}
    assert sizes["north"] > 1.5 * sizes["south"]
    assert {seat.key for seat in found.seats} == {"N", "S"}


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_measured_links_are_told_apart(order: tuple[int, ...]) -> None:
    trips = {"a": 0.0002, "b": 0.000202, "far": 0.1}
    hosts = [report(name, mac(256), trips=(seconds,)) for name, seconds in trips.items()]
    found = plan(
        SUPER,
        machines([hosts[number] for number in order]),
        Demand(context=1024, sequences=1),
        objective="latency",
        stages=2,
    )
    assert isinstance(found, Plan)
    assert {stage.machine.name for stage in found.stages} == {"a", "b"}


def test_eleven_equal_hosts_are_placed_though_all_that_is_measured_differs() -> None:
    hosts = [report(f"h{i}", mac(64, 5e11 + 7e8 * i), trips=(2e-4 + 2e-6 * i,)) for i in range(11)]
    found = places(SUPER, hosts, stages=None, lock=None, keys={})
    assert len({seat.host for seat in found.seats}) == 11
    assert [layer for run in found.layers for layer in range(*run)] == list(range(88))


def test_every_card_of_a_host_is_a_place_of_its_own() -> None:
    cards = [Device(chip="H200", memory_bytes=140 * GIB, card=number) for number in range(3)]
    found = places(SUPER, [report("south", *cards)], stages=None, lock=None, keys=KEYS)
    assert sorted(found.seats, key=lambda seat: seat.card or 0) == [Seat("south", "S", number) for number in range(3)]


def test_a_host_of_one_device_may_run_several_stages() -> None:
    found = places(SUPER, [report("north", mac(256))], stages=3, lock=None, keys={})
    assert [seat.host for seat in found.seats] == ["north"] * 3


def test_what_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(ConfigError, match="GB"):
        places(SUPER, [report("north", mac(64)), report("south", mac(64))], stages=None, lock=None, keys={})


def test_a_lock_keeps_the_split_when_figures_change(tmp_path: Path) -> None:
    lock = tmp_path / "plan.json"
    hosts = [report("north", mac(256)), report("south", mac(256))]
    first = places(SUPER, hosts, stages=None, lock=lock, keys=KEYS)
    slower = [report("north", mac(256, 1e11)), report("south", mac(256))]
    assert places(SUPER, slower, stages=None, lock=None, keys=KEYS).layers != first.layers
    assert places(SUPER, slower, stages=None, lock=lock, keys=KEYS) == first
    with pytest.raises(ConfigError, match="delete the file"):
        places(SUPER, [report("north", mac(256)), report("west", mac(256))], stages=None, lock=lock, keys=KEYS)


def test_hosts_beyond_the_number_of_layers_stay_without_a_stage() -> None:
    short = msgspec.structs.replace(SUPER, layers=SUPER.layers[:2])
    found = places(short, [report(name, mac(192)) for name in ("a", "b", "c")], stages=None, lock=None, keys={})
    assert found.layers == ((0, 1), (1, 2))
