"""`stageline up`: check the model and the settings, then serve until told to stop."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import click

from coordinator import config
from coordinator.cluster import Cluster
from coordinator.commands.options import setting
from coordinator.fleet.gathering import gather
from coordinator.fleet.hostfile import Hostfile, read_hostfile
from coordinator.fleet.places import places
from coordinator.fleet.report import reports
from coordinator.listener import listen
from coordinator.local_site import LocalSite
from coordinator.plan.local import local_stages
from coordinator.prepared import Prepared, prepare
from coordinator.seat import Seat
from coordinator.serving import heard_signals, serve
from coordinator.settings import Settings
from worker.model_hash import model_hash

MAX_DESCRIPTORS = 65536  # asked for; macOS gives 256 unless asked, which connections alone would use up


@click.command()
@click.argument("model", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file, see configs/example.toml.")
@setting("stages")
@setting("hosts")
@setting("launch")
@setting("python")
@setting("control")
@setting("keys")
@setting("lock")
@setting("host")
@setting("port")
@setting("api_key")
@setting("insecure")
@setting("model_name")
@setting("quantize")
@setting("context")
@setting("prefill_chunk")
@setting("snapshot_bytes")
@setting("snapshot_dir")
def up(file: Path | None, **flags: Any) -> None:
    """Start a cluster and serve MODEL over HTTP.

    MODEL is a directory or a hub id; without one the demo model is served. The stages run on this machine, or on those
    of --hosts. Prints `ready http://HOST:PORT` when ready. Ctrl-C stops everything; the exit status after a signal to
    stop is 0, whether it was ready yet or not.
    """
    _leave_at_a_signal()
    _raise_descriptor_limit()
    settings = config.settings(file, os.environ, flags)
    config.check_host(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    hostfile = read_hostfile(Path(settings.hosts), addressed=settings.launch) if settings.hosts else None
    with listen(settings.host, settings.port) as listener:
        prepared = prepare(settings)
        if hostfile is None:
            asyncio.run(_here(settings, prepared, listener))
        else:
            asyncio.run(_there(settings, prepared, listener, hostfile))


async def _here(settings: Settings, prepared: Prepared, listener: socket.socket) -> None:
    """Serve with all stages on this machine."""
    layers = local_stages(prepared.cost, settings.stages, Path(settings.lock) if settings.lock else None)
    cluster = _cluster(settings, prepared, layers, ())
    await serve(settings, prepared.served, cluster, LocalSite(len(layers)), listener)


async def _there(settings: Settings, prepared: Prepared, listener: socket.socket, hostfile: Hostfile) -> None:
    """Serve with the stages on other hosts."""

    digest = prepared.model_hash or model_hash(prepared.source)
    async with gather(settings, hostfile, model=prepared.source, model_hash=digest) as fleet:
        found = places(
            prepared.cost,
            reports(fleet.members),
            stages=settings.stages,
            lock=Path(settings.lock) if settings.lock else None,
            keys=fleet.keys,
        )
        fleet.seat(found.seats)
        cluster = _cluster(settings, prepared, found.layers, found.seats)
        await serve(settings, prepared.served, cluster, fleet, listener)


def _cluster(
    settings: Settings, prepared: Prepared, layers: tuple[tuple[int, int], ...], seats: tuple[Seat, ...]
) -> Cluster:
    return Cluster(
        model=prepared.served.name,
        source=prepared.source,
        layers=layers,
        pattern=prepared.checkpoint.spec.pattern,
        quantize=settings.quantize,
        snapshots=prepared.snapshots,
        model_hash=prepared.model_hash,
        seats=seats,
    )


def _leave_at_a_signal() -> None:
    """Until `serve` has its own way to stop: an exception in the main thread, which ends what it runs in order.

    A signal that is ignored on entry, as SIGHUP under nohup, stays ignored. A second one ends the process at once.
    """

    def leave(*_: object) -> None:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)
        sys.exit(0)

    heard = heard_signals()
    for number in heard:
        signal.signal(number, leave)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a system may have a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
