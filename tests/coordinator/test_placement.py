from pathlib import Path

import pytest

from coordinator.fleet.placement import machines
from coordinator.fleet.places import places
from coordinator.fleet.report import HostReport
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
