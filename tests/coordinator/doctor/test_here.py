"""What is measured here becomes machines for the planner."""

import pytest
from msgspec.structs import replace

from coordinator.doctor import here
from coordinator.doctor.here import machines_here
from coordinator.fleet.hostfile import Host, Hostfile
from coordinator.plan import this_machine
from coordinator.settings import Settings
from worker.agent.messages import Device

CARDS = tuple(Device(chip="NVIDIA H200", memory_bytes=140 << 30, card=card) for card in (0, 1))
STUDIO = Device(chip="M3 Ultra", memory_bytes=256 << 30)
PROCESSOR = Device(chip="x86_64", memory_bytes=64 << 30, bandwidth=20e9)


def of(monkeypatch, present, measured):
    monkeypatch.setattr(this_machine, "devices", lambda: present)
    monkeypatch.setattr(this_machine, "processor", lambda: PROCESSOR)
    return machines_here(measured)


def test_each_card_reads_as_fast_as_was_measured(monkeypatch):
    fast, unknown = of(monkeypatch, CARDS, (replace(CARDS[0], bandwidth=4.1e12), CARDS[1]))
    assert (fast.chip, fast.bandwidth, fast.read) == ("H200", 4.8e12, 4.1e12)
    assert unknown.read == pytest.approx(4.8e12 * 0.885)
    assert fast.name != unknown.name


def test_no_chip_reads_faster_than_its_maker_states(monkeypatch):
    (studio,) = of(monkeypatch, (STUDIO,), (replace(STUDIO, bandwidth=1e12),))
    assert (studio.memory, studio.read) == (256 << 30, studio.bandwidth)


def test_a_processor_keeps_its_share(monkeypatch):
    (before,) = of(monkeypatch, (PROCESSOR,), (PROCESSOR,))
    (after,) = of(monkeypatch, (PROCESSOR,), (replace(PROCESSOR, bandwidth=40e9),))
    assert (after.bandwidth, after.read) == (40e9, pytest.approx(2 * before.read))


def test_the_other_hosts_are_tried_from_here(monkeypatch, tmp_path):
    """macOS may keep this very program from them."""
    asked = []
    monkeypatch.setattr(here, "checkup", lambda *, peers, **_: asked.extend(peers) or ())
    monkeypatch.setenv("STAGELINE_KEYS", str(tmp_path))
    hosts = (Host("127.0.0.1", ("10.0.0.9",)), Host("ann@north", ("10.0.0.1", "10.1.0.1")), Host("south"))
    here.here(Settings(port=0), Hostfile(hosts), None, (), measured=False)
    assert asked == [("10.0.0.1", 22)]
