"""Machines by name, from files, and this one."""

import pytest
from msgspec.structs import replace

from coordinator.plan.chips import GIB, chips, figures, link, links, machines
from coordinator.plan.machine import Link
from coordinator.plan.machine_file import read_machines, write_machines
from coordinator.plan.this_machine import known_chip, this_machine
from worker import hardware
from worker.agent.messages import Device
from worker.errors import ConfigError


@pytest.mark.parametrize("chip", chips())
def test_every_chip_of_the_table_is_complete(chip):
    (machine,) = machines((chip,), link("10gbe"))
    assert 0 < machine.usable < machine.memory
    assert 0.5 * machine.bandwidth < machine.read < machine.bandwidth
    assert 1e11 < machine.compute < 1e15
    assert 1e-6 < machine.layer_seconds < 1e-3


@pytest.mark.parametrize("name", links())
def test_every_link_of_the_table_is_complete(name):
    over = link(name)
    assert 1e-5 < over.latency < over.seconds(10**6) < 1


@pytest.mark.parametrize(
    ("text", "count", "chip", "gib"),
    [
        ("M3 Ultra 512", 1, "M3 Ultra", 512),
        ("m3 ultra 96GB", 1, "M3 Ultra", 96),
        ("2 x M4 Max 128 GiB", 2, "M4 Max", 128),
        ("4x H200", 4, "H200", 140.4),
        ("RTX 5090", 1, "RTX 5090", 31.8),
        (" GB10 119.7 ", 1, "GB10", 119.7),
    ],
)
def test_descriptions(text, count, chip, gib):
    found = machines((text,), link("thunderbolt"))
    assert [machine.chip for machine in found] == [chip] * count
    assert {machine.memory for machine in found} == {int(gib * GIB)}
    assert len({machine.name for machine in found}) == count


def test_machines_of_several_descriptions_have_names_of_their_own():
    found = machines(("M3 Ultra 512", "M3 Ultra 512", "2 x M3 Ultra 512"), link("wifi"))
    assert len({machine.name for machine in found}) == 4
    assert {machine.link.name for machine in found} == {"wifi"}


@pytest.mark.parametrize("text", ["", "512", "M9 Ultra 512", "x M3 Ultra", "M3 Ultra -5", "M3 Ultra 512 128"])
def test_an_unknown_chip_is_refused_with_those_that_are_known(text):
    with pytest.raises(ConfigError, match=r"expected CHIP and its memory.*M3 Ultra.*H200"):
        machines((text,), link("thunderbolt"))


def test_no_memory_is_refused():
    with pytest.raises(ConfigError, match="memory_gib is 0, expected a positive number"):
        machines(("M3 Ultra 0",), link("thunderbolt"))


def test_an_unknown_link_is_refused():
    with pytest.raises(ConfigError, match=r"link 'carrier pigeon': known are local, thunderbolt"):
        link("carrier pigeon")


def write(tmp_path, text):
    path = tmp_path / "machines.toml"
    path.write_text(text)
    return path


def test_a_file_overrides_the_table(tmp_path):
    path = write(
        tmp_path,
        """
        link = "10gbe"
        [[machine]]
        name = "studio"
        chip = "M3 Ultra"
        memory_gib = 256
        usable = 0.9
        [[machine]]
        name = "box"
        chip = "something new"
        memory_gib = 64
        bandwidth_gbs = 500
        read = 0.5
        compute_tflops = 2
        layer_us = 30
        usable = 0.5
        link = "wifi"
        """,
    )
    studio, box = read_machines(path)
    table = figures("M3 Ultra")
    assert (studio.memory, studio.usable) == (256 * GIB, int(256 * GIB * 0.9))
    assert table is not None
    assert studio.read == pytest.approx(819e9 * table.read)
    assert (studio.link.name, box.link.name) == ("10gbe", "wifi")
    assert (box.read, box.compute, box.layer_seconds) == (250e9, 2e12, 30e-6)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[[machine]]\nname = 'a'", "missing required field `chip`"),
        ("[[machine]]\nname = 'a'\nchip = 'new'", "chip 'new' is unknown, so give all of memory_gib"),
        ("[[machine]]\nname = 'a'\nchip = 'H200'\nspeed = 1", "unknown field `speed`"),
        ("[[machine]]\nname = 'a'\nchip = 'H200'\nusable = 1.5", "usable is 1.5, expected .*at most 1"),
        ("[[machine]]\nname = 'a'\nchip = 'H200'\nmemory_gib = 1e300", r"memory_gib is 1e\+300, .*at most 1e\+09"),
        ("[[machine]]\nname = 'a'\nchip = 'H200'\nlink = 'rope'", "link 'rope': known are"),
        ("[[machine]]\nname = 'a'\nchip = 'H200'\nlatency_us = 0", "latency_us is 0, expected a positive number"),
        ("[[machine]]\nname = 'a'\nchip = 'H200'\n[[machine]]\nname = 'a'\nchip = 'H200'", "different names"),
        ("machine = []", "expected 1 to 64 machines"),
        ("machine = [", "not TOML"),
    ],
    ids=["no chip", "unknown chip", "unknown key", "share", "memory", "link", "latency", "names", "none", "syntax"],
)
def test_a_wrong_file_is_refused_with_its_name(tmp_path, text, problem):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_machines(path)
    assert str(path) in str(caught.value) or "rope" in text


def test_a_measured_latency_belongs_to_one_machine(tmp_path):
    path = write(
        tmp_path,
        """
        [[machine]]
        name = "a"
        chip = "H200"
        link = "10gbe"
        latency_us = 180
        [[machine]]
        name = "b"
        chip = "H200"
        link = "10gbe"
        """,
    )
    measured, other = read_machines(path)
    assert measured.link == Link("10gbe", 180e-6, other.link.bandwidth)
    assert other.link == link("10gbe")


def test_a_written_file_gives_the_same_machines(tmp_path):
    path = tmp_path / "machines.toml"
    studio, card = machines(("M3 Ultra 512", "H200"), link("thunderbolt"))
    measured = replace(card, name='the "big" one', read=card.read * 0.9, link=replace(link("10gbe"), latency=2e-4))
    write_machines(path, (studio, measured))
    for written, found in zip((studio, measured), read_machines(path), strict=True):
        assert (found.name, found.chip, found.link.name) == (written.name, written.chip, written.link.name)
        numbers = ("memory", "usable", "bandwidth", "read", "compute", "layer_seconds")
        assert [getattr(found, key) for key in numbers] == pytest.approx([getattr(written, key) for key in numbers])
        assert (found.link.latency, found.link.bandwidth) == pytest.approx(
            (written.link.latency, written.link.bandwidth)
        )


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    path = tmp_path / "no" / "machines.toml"
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory") as caught:
        write_machines(path, machines(("H200",), link("local")))
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_machines(tmp_path / "none.toml")


def test_this_machine_has_its_memory(monkeypatch):
    monkeypatch.setattr(hardware, "said", lambda *command: "")
    first, second = this_machine(2)
    assert first == second
    assert first.usable < first.memory == hardware.memory_bytes()
    assert first.read > 0


def test_cards_of_this_machine_take_a_stage_each(monkeypatch):
    cards = tuple(Device(chip="NVIDIA H200", memory_bytes=143771 << 20, card=card) for card in range(2))
    monkeypatch.setattr(hardware, "nvidia_cards", lambda: cards)
    found = this_machine(2)
    assert [machine.chip for machine in found] == ["H200", "H200"]
    assert len({machine.name for machine in found}) == 2
    shared = this_machine(3)
    assert len({machine.name for machine in shared}) == 1
    assert shared[0].stages == 1


def test_a_mac_is_found_by_its_name(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(hardware, "said", lambda *command: "Apple M4 Max" if command[0] == "sysctl" else "")
    (machine,) = this_machine(1)
    assert machine.chip == "M4 Max"
    assert machine.bandwidth == 546e9


def test_what_a_device_says_of_itself_counts():
    chip, known = known_chip(Device(chip="NVIDIA H200 NVL", memory_bytes=100 * GIB, card=0, bandwidth=4.25e12))
    assert (chip, known.memory_gib, known.bandwidth_gbs, known.read) == ("H200", 100, 4250, 1.0)
    table = figures("H200")
    assert (known.compute_tflops, known.layer_us) == (table.compute_tflops, table.layer_us)
    chip, known = known_chip(Device(chip="H200", memory_bytes=0))
    assert known == table
    assert known_chip(Device(chip="M3", memory_bytes=GIB)) is None  # not the start of "M3 Max"


@pytest.mark.parametrize("count", ["0", "65", "100000000"])
def test_a_count_of_machines_has_limits(count):
    with pytest.raises(ConfigError, match=f"{count} machines, expected 1 to 64"):
        machines((f"{count} x H200",), link("thunderbolt"))
