"""Writes docs/doctor.md from the checks of `stageline doctor`.

`python scripts/doctor.py` rewrites it; with `--check` it exits with 1 if the page is not up to date.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from coordinator.doctor import bandwidth, between, fit, hosts, ports
from worker.checkup import (
    backend,
    descriptors,
    disk,
    environment,
    gpu_memory,
    installed,
    key_files,
    local_network,
    memory,
    sleep,
    wired_limit,
)
from worker.checkup.check import Check

PAGE = Path("docs/doctor.md")
COMMANDS = ("sudo", "python", "unset", "chmod", "stageline")  # fixes that begin so are commands
HERE = (
    installed,
    backend,
    environment,
    memory,
    gpu_memory,
    wired_limit,
    sleep,
    local_network,
    descriptors,
    disk,
    key_files,
    ports,
    bandwidth,
    fit,
)
INTRODUCTION = """\
# stageline doctor

`scripts/doctor.py` writes this page from the checks themselves.

    stageline doctor [MODEL] [--measure]              this machine
    stageline doctor [MODEL] --hosts hosts.json       this machine, every host, and what is between them
    stageline doctor --measure --machines FILE        and write what was measured, for `stageline plan --machines FILE`

A finding is `ok`, `warn` (it works, but slower or less surely) or `fail` (a cluster does not work like this), and says
what to do in the second case and the third. The exit status is 1 if anything fails, 2 if the command line or a file is
wrong, else 0. With `--hosts` an agent is started on each host by `mlx.launch`, as `up` does it, and ended again.
With `--no-launch` those that run already are waited for, at most 30 s.

`--json` prints one object:

| key | what |
|---|---|
| `failed` | whether any finding is a failure |
| `hosts` | one object a machine: `name` ("": here), `platform`, `versions`, `devices`, `findings` |
| `between` | findings about several hosts together |
| `round_trips` | `sender`, `receiver`, `seconds` there and back, `nbytes` each way, `problem` where there are none |

A finding has `check`, `level`, `found` and `fix` ("" if there is nothing to do). A device has `chip`, `memory_bytes`,
`card` (of NVIDIA, else null) and `bandwidth` in bytes a second (0 if it was not measured).

The checks of macOS follow Apple's and MLX's documentation and reports of others; they have not been run on a Mac by us.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, checks in (("A machine", [each.CHECK for each in HERE]), ("Hosts", [hosts.CHECK, *between.CHECKS])):
        parts.append("\n".join([f"## {title}\n", *_table(checks)]) + "\n")
    return "\n".join(parts)


def _table(checks: list[Check]) -> Iterator[str]:
    yield "| check | what is looked at | what to do |"
    yield "|---|---|---|"
    for check in checks:
        fixes = "; ".join(_shown(fix) for fix in check.fixes)
        yield f"| `{check.name}` | {check.about} | {fixes} |".replace("  ", " ")


def _shown(fix: str) -> str:
    """A command as code; placeholders in capitals."""
    command = fix.split()[0] in COMMANDS
    text = f"`{fix}`" if command else fix
    return "".join(part.upper() if index % 2 else part for index, part in enumerate(text.replace("}", "{").split("{")))


written = page()
if sys.argv[1:] == ["--check"]:
    if not PAGE.exists() or PAGE.read_text() != written:
        sys.exit(f"{PAGE} is not up to date: run `make generate`")
else:
    PAGE.write_text(written)
