"""The table of known chips and links, `machines.toml`, and machines made from it."""

import re
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec

from coordinator.plan.machine import MOST_MACHINES, Link, Machine
from worker.errors import ConfigError

GIB = 2**30
SHARES = ("usable", "read")
LARGEST = 1e9  # of any figure in its unit: a typing error lies beyond
COUNT = re.compile(r"(\d+)\s*x\s+", re.I)
MEMORY = re.compile(r"\s*(?:\s(\d+(?:\.\d+)?)\s*(?:gi?b)?)?", re.I)


class Figures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the table knows of a chip, and what a machines file may say instead; units as in `machines.toml`."""

    memory_gib: float | None = None
    bandwidth_gbs: float | None = None
    read: float | None = None
    compute_tflops: float | None = None
    layer_us: float | None = None
    usable: float | None = None

    def over(self, other: "Figures") -> "Figures":
        """These figures, and those of `other` where there are none."""
        known = {key: value for key, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(other, **known)


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads(files("coordinator.plan").joinpath("machines.toml").read_text(encoding="utf-8"))


def chips() -> tuple[str, ...]:
    """The known chips."""
    return tuple(_table()["chips"])


def links() -> tuple[str, ...]:
    """The known links."""
    return tuple(_table()["links"])


def link(name: str) -> Link:
    """A link of the table. Raises ConfigError for an unknown one."""
    entry = _table()["links"].get(name.lower())
    if entry is None:
        raise ConfigError(f"link {name!r}: known are {', '.join(links())}", param="link")
    return Link(name.lower(), entry["latency_us"] / 1e6, entry["gbits"] * 1e9 / 8)


def figures(chip: str) -> Figures | None:
    """What the table knows of a chip, None if nothing."""
    entry = next((dict(entry) for name, entry in _table()["chips"].items() if name.lower() == chip.lower()), None)
    if entry is None:
        return None
    family = _table()["families"][entry.pop("family")]
    return Figures(**{**_table()["defaults"], **family, **entry})


def machine(name: str, chip: str, known: Figures, *, where: str, link: Link, stages: int = 1) -> Machine:
    """The machine that these figures describe. Raises ConfigError, naming `where`, if one is missing or impossible."""
    for key, value in msgspec.structs.asdict(known).items():
        if value is None:
            raise ConfigError(f"{where}: {key} of {chip} is not known; known chips: {', '.join(chips())}")
        most = 1.0 if key in SHARES else LARGEST
        if not 0 < value <= most:
            raise ConfigError(f"{where}: {key} is {value:g}, expected a positive number, at most {most:g}")
    memory = int(_number(known.memory_gib) * GIB)
    bandwidth = _number(known.bandwidth_gbs) * 1e9
    return Machine(
        name=name,
        chip=chip,
        memory=memory,
        usable=int(memory * _number(known.usable)),
        bandwidth=bandwidth,
        read=bandwidth * _number(known.read),
        compute=_number(known.compute_tflops) * 1e12,
        layer_seconds=_number(known.layer_us) / 1e6,
        link=link,
        stages=stages,
    )


def machines(descriptions: tuple[str, ...], over: Link) -> tuple[Machine, ...]:
    """Machines by `--machine "[COUNT x] CHIP [GIB]"`, all on one link. Raises ConfigError for an unknown chip."""
    described = [each for text in descriptions for each in _described(text)]
    return tuple(
        machine(f"{chip} {known.memory_gib:g} #{number}", chip, known, where="--machine", link=over)
        for number, (chip, known) in enumerate(described, start=1)
    )


def _described(text: str) -> list[tuple[str, Figures]]:
    count = COUNT.match(text.strip())
    if count and not 1 <= int(count[1]) <= MOST_MACHINES:
        raise ConfigError(
            f"--machine {text!r}: {count[1]} machines, expected 1 to {MOST_MACHINES}, as in '2 x M4 Max 128'",
            param="machine",
        )
    rest = text.strip()[count.end() if count else 0 :]
    for chip in chips():
        known, memory = figures(chip), MEMORY.fullmatch(rest[len(chip) :])
        if known is not None and memory is not None and rest.lower().startswith(chip.lower()):
            over = Figures(memory_gib=float(memory[1]) if memory[1] else None).over(known)
            return [(chip, over)] * (int(count[1]) if count else 1)
    raise ConfigError(
        f"--machine {text!r}: expected CHIP and its memory in GiB, as in 'M3 Ultra 512' or '2 x M4 Max 128'; "
        f"known chips: {', '.join(chips())}; describe any other in a file for --machines",
        param="machine",
    )


def _number(value: float | None) -> float:
    assert value is not None
    return value
