"""Findings on a terminal.

What comes from elsewhere is shown as a `Text`: in a plain string rich takes brackets for markup.
"""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from coordinator.doctor.report import Report, Trip
from worker.agent.messages import Finding

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}
HERE = "this machine"


def show(report: Report, console: Console) -> None:
    """A table a host, what is between them, and how many findings there are of each level."""
    for host in report.hosts:
        where = f"{host.name or HERE}: {host.platform}" if host.platform else host.name or HERE
        console.print(_table(where, host.findings))
    if report.between:
        console.print(_table("between the hosts", report.between))
    if report.round_trips:
        console.print(_matrix(report.round_trips))
    findings = [*report.between, *(finding for host in report.hosts for finding in host.findings)]
    counts = {level: sum(finding.level == level for finding in findings) for level in STYLES}
    console.print(", ".join(f"{count} {level}" for level, count in counts.items()), highlight=False)


def _table(title: str, findings: Sequence[Finding]) -> Table:
    table = Table(
        title=Text(title, "table.title"), title_justify="left", box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column("", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in findings:
        style = STYLES[finding.level]
        table.add_row(Text(finding.level, style), Text(finding.check), Text(finding.found))
        if finding.fix:
            table.add_row("", "", Text(f"-> {finding.fix}", "bold" if finding.level != "ok" else "dim"))
    return table


def _matrix(trips: Sequence[Trip]) -> Table:
    nbytes = max(trip.nbytes for trip in trips)
    table = Table(
        title=f"round trips in ms, {nbytes / 1024:g} KiB each way",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    ways = {(trip.sender, trip.receiver): trip for trip in trips}
    names = list(dict.fromkeys(name for way in ways for name in way))
    table.add_column("from \\ to")
    for name in names:
        table.add_column(Text(name), justify="right")
    for sender in names:
        table.add_row(Text(sender), *(_milliseconds(ways.get((sender, receiver))) for receiver in names))
    return table


def _milliseconds(trip: Trip | None) -> str:
    if trip is None:
        return "-"
    return "none" if trip.problem else f"{trip.seconds * 1e3:.2f}"
