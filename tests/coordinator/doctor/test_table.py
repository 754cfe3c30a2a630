"""What `stageline doctor` shows on a terminal, whatever things are called."""

import io

import pytest
from rich.console import Console

from coordinator.commands.doctor_table import show
from coordinator.doctor.report import HostFindings, Trip, report
from worker.agent.messages import Finding
from worker.versions import versions


@pytest.mark.parametrize("name", ["Nano-[8bit]", "[red]", "a [/b] c", "a:cat:b", "ends with \\"])
def test_names_are_shown_as_they_are(name):
    finding = Finding(check=f"check {name}", level="fail", found=f"found {name}", fix=f"fix {name}")
    host = HostFindings(
        name=f"host {name}", platform=f"on {name}", versions=versions(), devices=(), findings=(finding,)
    )
    trip = Trip(sender=f"from {name}", receiver=f"to {name}", seconds=0.001, nbytes=8192)
    shown = io.StringIO()
    show(report((host,), (finding,), (trip,)), Console(file=shown, width=200))
    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert lines[0] == f"host {name}: on {name}"
    for row in (f"fail  check {name}  found {name}", f"-> fix {name}"):
        assert sum(" ".join(row.split()) in " ".join(line.split()) for line in lines) == 2
    for word in ("from", "to"):  # each has a row and a column
        assert sum(f"{word} {name}" in line for line in lines) == 2
