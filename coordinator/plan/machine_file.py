"""The file of `--machines`: machines by chip, with any figure that differs from the table's.

link = "10gbe"            # of all machines

[[machine]]
name = "studio"
chip = "M3 Ultra"
memory_gib = 256
read = 0.8                # measured here; every figure of machines.toml may stand here
link = "thunderbolt"      # of this one
latency_us = 180          # of that link, measured

`stageline doctor --measure --machines FILE` writes such a file.
"""

import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec.structs import replace

from coordinator.plan.chips import GIB, Figures, chips, figures, link, links, machine
from coordinator.plan.machine import MOST_MACHINES, Link, Machine
from worker.errors import ConfigError


class Entry(Figures, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[machine]]`."""

    name: str
    chip: str
    link: str | None = None
    latency_us: float | None = None


class MachineFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    machine: list[Entry]
    link: str = "thunderbolt"


def read_machines(path: Path) -> tuple[Machine, ...]:
    """The machines of a file. Raises ConfigError naming the file and what is wrong."""
    try:
        content = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8-sig")), MachineFile)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", param="machines") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}", param="machines") from error
    except ValueError as error:
        raise ConfigError(f"{path}: not TOML: {error}", param="machines") from error
    names = [entry.name for entry in content.machine]
    if not 1 <= len(names) <= MOST_MACHINES or len(set(names)) < len(names):
        raise ConfigError(f"{path}: expected 1 to {MOST_MACHINES} machines of different names, got {names}")
    return tuple(_machine(path, entry, content.link) for entry in content.machine)


def _machine(path: Path, entry: Entry, default_link: str) -> Machine:
    said = Figures(**{key: getattr(entry, key) for key in Figures.__struct_fields__})
    known = figures(entry.chip)
    if known is None and None in msgspec.structs.astuple(said):
        raise ConfigError(
            f"{path}: machine {entry.name}: chip {entry.chip!r} is unknown, so give all of "
            f"{', '.join(Figures.__struct_fields__)}; known chips: {', '.join(chips())}",
            param="machines",
        )
    return machine(
        entry.name,
        entry.chip,
        said.over(known) if known else said,
        where=f"{path}: machine {entry.name}",
        link=_link(path, entry, default_link),
    )


def _link(path: Path, entry: Entry, default: str) -> Link:
    found = link(entry.link or default)
    if entry.latency_us is None:
        return found
    if not 0 < entry.latency_us < float("inf"):
        raise ConfigError(
            f"{path}: machine {entry.name}: latency_us is {entry.latency_us:g}, expected a positive number of "
            "microseconds",
            param="machines",
        )
    return replace(found, latency=entry.latency_us / 1e6)


def write_machines(path: Path, machines: Sequence[Machine]) -> None:
    """Writes a new file from which `read_machines` makes the same machines.

    Raises ConfigError if it exists already or cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write("\n".join(_lines(machines)))
    except OSError as error:
        raise ConfigError(f"--machines {path}: cannot be written: {error.strerror}", param="machines") from error


def _lines(machines: Sequence[Machine]) -> Iterator[str]:
    yield "# written by `stageline doctor --measure`; the rate of a link is not measured: correct `link` if it is wrong"
    for each in machines:
        known = next((name for name in links() if link(name).bandwidth == each.link.bandwidth), each.link.name)
        yield "\n[[machine]]"
        yield f"name = {_text(each.name)}"
        yield f"chip = {_text(each.chip)}"
        yield f"memory_gib = {each.memory / GIB!r}"
        yield f"bandwidth_gbs = {each.bandwidth / 1e9!r}"
        yield f"read = {each.read / each.bandwidth!r}"
        yield f"compute_tflops = {each.compute / 1e12!r}"
        yield f"layer_us = {each.layer_seconds * 1e6!r}"
        yield f"usable = {each.usable / each.memory!r}"
        yield f"link = {_text(known)}"
        yield f"latency_us = {each.link.latency * 1e6!r}"
    yield ""


def _text(text: str) -> str:
    """A TOML string; JSON's escapes are TOML's too."""
    return msgspec.json.encode(text).decode()
