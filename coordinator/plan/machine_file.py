"""The file of `--machines`: machines by chip, with any figure that differs from the table's.

link = "10gbe"            # of all machines

[[machine]]
name = "studio"
chip = "M3 Ultra"
memory_gib = 256
read = 0.8                # measured here; every figure of machines.toml may stand here
link = "thunderbolt"      # of this one
"""

import tomllib
from pathlib import Path

import msgspec

from coordinator.plan.chips import Figures, chips, figures, link, machine
from coordinator.plan.machine import MOST_MACHINES, Machine
from worker.errors import ConfigError


class Entry(Figures, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One `[[machine]]`."""

    name: str
    chip: str
    link: str | None = None


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
        link=link(entry.link or default_link),
    )
