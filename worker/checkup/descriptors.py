"""How many files and sockets a process may have open."""

import resource

from worker.agent.messages import Finding
from worker.checkup.check import Check

NEEDED = 1024  # every connection of a client takes one; macOS begins with 256

RAISE = f"raise the hard limit: `ulimit -Hn {NEEDED}` in a shell of the administrator"
CHECK = Check(
    "descriptors",
    f"How many files and sockets a process may open; `up` raises the limit as far as it may. Warns below {NEEDED}.",
    (RAISE,),
)


def read_limits() -> tuple[int, int]:
    """The soft and the hard limit, -1 for none."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return (-1 if soft == resource.RLIM_INFINITY else soft), (-1 if hard == resource.RLIM_INFINITY else hard)


def descriptors(soft: int, hard: int) -> Finding:
    """-1 is no limit."""
    told = f"{_number(soft)} open files and sockets, can be raised to {_number(hard)}"
    if 0 <= hard < NEEDED:
        return CHECK.warn(told, RAISE)
    return CHECK.ok(told)


def _number(limit: int) -> str:
    return "any number" if limit < 0 else str(limit)
