"""`stageline doctor`: look at this machine, at the hosts of a cluster and at what is between them, with fixes."""

import asyncio
import logging
import os
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec.structs import replace
from rich.console import Console

from coordinator import config
from coordinator.commands.doctor_table import show
from coordinator.commands.options import setting
from coordinator.doctor import fit
from coordinator.doctor.between import between, trips
from coordinator.doctor.here import here, machines_here
from coordinator.doctor.hosts import AGAIN, CHECK, host_findings
from coordinator.doctor.report import Report, report
from coordinator.fleet.gathering import gather
from coordinator.fleet.hostfile import Hostfile, read_hostfile
from coordinator.fleet.placement import machines
from coordinator.fleet.refused import HostsError
from coordinator.fleet.report import HostReport, reports
from coordinator.plan.machine import Machine
from coordinator.plan.machine_file import write_machines
from coordinator.settings import Settings
from worker.agent.messages import Finding
from worker.errors import ConfigError, StagelineError
from worker.hardware import devices
from worker.measured import measured

LINE_WIDTH = 160  # where there is no window to fit into


@click.command()
@click.argument("model", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file, see configs/example.toml.")
@click.option("--measure", is_flag=True, help="Measure how fast memory is read, too.")
@click.option(
    "--machines",
    "machine_file",
    type=click.Path(path_type=Path),
    help="Write what was measured to this new file, for `stageline plan --machines`.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@setting("hosts")
@setting("launch")
@setting("python")
@setting("control")
@setting("keys")
@setting("insecure")
@setting("host")
@setting("port")
@setting("snapshot_dir")
def doctor(
    model: str | None, file: Path | None, measure: bool, machine_file: Path | None, as_json: bool, **flags: Any
) -> int:
    """Look for what is wrong here or on the hosts, with fixes.

    MODEL is a directory, a hub id, nano, super or ultra: is it found, and does it fit? With --hosts an agent is started
    on each host, as `up` does it. The exit status is 1 if anything fails. docs/doctor.md lists all checks.
    """
    if machine_file is not None and not measure:
        raise ConfigError("--machines writes what --measure finds: give both", param="machines")
    if machine_file is not None and machine_file.exists():
        raise ConfigError(f"--machines {machine_file}: exists already; name a new file", param="machines")
    settings = config.settings(file, os.environ, {**flags, "model": model})
    hostfile = read_hostfile(Path(settings.hosts), addressed=settings.launch) if settings.hosts else None
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("stageline.hosts").setLevel(logging.INFO)  # whom it waits for
    result, found = _look(settings, hostfile, measure)
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        console = Console()
        if not console.is_terminal:
            console.width = max(console.width, LINE_WIDTH)
        show(result, console)
    if machine_file is not None and found:
        write_machines(machine_file, found)
    return int(result.failed)


def _look(settings: Settings, hostfile: Hostfile | None, measure: bool) -> tuple[Report, tuple[Machine, ...]]:
    """All findings, and the machines that stages would run on."""
    model = fit.look(settings.model) if settings.model else None
    known = model if isinstance(model, fit.Found) else None
    own = asyncio.run(measured(devices())) if measure else devices()
    local = here(settings, hostfile, known, own, measured=measure)
    if hostfile is None:
        found = machines_here(own)
        fits = (fit.fit(settings.model, model, found),) if settings.model and model else ()
        return report((replace(local, findings=(*local.findings, *fits)),)), found
    missing: list[Finding] = []
    while True:  # one host that cannot take part does not hide the others
        try:
            there = asyncio.run(_ask(settings, hostfile, known.source if known else "", measure))
            break
        except HostsError as error:
            missing += [CHECK.fail(f"{name}: {problem}", AGAIN) for name, problem in error.problems.items()]
            hostfile = replace(hostfile, hosts=tuple(h for h in hostfile.hosts if h.name not in error.problems))
        except StagelineError as error:
            return report((local,), (*missing, CHECK.fail(error.message, AGAIN))), ()
        if not hostfile.hosts:
            return report((local,), tuple(missing)), ()
    found = machines(there)
    fits = (fit.fit(settings.model, model, found),) if settings.model and model else ()
    return (
        report(
            (local, *(host_findings(each, measured=measure) for each in there)),
            (
                *(missing or [CHECK.ok(", ".join(each.name for each in there))]),
                *between(there, known.source if known else "", known.hash if known else ""),
                *fits,
            ),
            trips(there),
        ),
        found,
    )


async def _ask(settings: Settings, hostfile: Hostfile, model: str, measure: bool) -> tuple[HostReport, ...]:
    async with gather(settings, hostfile, model=model, measure=measure, checks=True) as fleet:
        return reports(fleet.members)
