"""The cluster of `stageline up`: its stages are on this machine, or on other hosts."""

import asyncio
import socket
from pathlib import Path

from coordinator.cluster import Cluster
from coordinator.fleet.gathering import gather
from coordinator.fleet.hostfile import Hostfile, read_hostfile
from coordinator.fleet.places import places
from coordinator.fleet.report import reports
from coordinator.listener import listen
from coordinator.local_site import LocalSite
from coordinator.plan.local import local_stages
from coordinator.prepared import Prepared, prepare
from coordinator.seat import Seat
from coordinator.serving import serve
from coordinator.settings import Settings
from worker.checkpoint.model_hash import model_hash


def serve_cluster(settings: Settings) -> None:
    """Returns after a signal to stop. Raises UserError for what cannot be served, and what made the cluster fail."""
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
