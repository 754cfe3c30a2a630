"""`stageline worker`: one stage's process. `stageline up` starts these; by hand it is for debugging one stage."""

import contextlib
import ipaddress
import logging
import os
import platform
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path

import click

from worker.errors import ClusterError, ConfigError
from worker.mlx_settings import set_defaults


@click.command()
@click.option("--control", required=True, help="Endpoint of the coordinator's control socket.")
@click.option("--session", required=True, help="Name of this life of the stage, new at every start.")
@click.option("--stage", required=True, type=click.IntRange(0))
@click.option("--stages", required=True, type=click.IntRange(1))
@click.option("--runtime", required=True, type=click.Path(path_type=Path), help="Directory for socket files.")
@click.option("--host", default=platform.node, help="Name of this machine in the cluster; its own if not given.")
@click.option("--address", default="", help="Its IP address, where the metrics server listens; else on loopback.")
@click.option("--keys", type=click.Path(path_type=Path), help="Directory of keys, for a cluster that has them.")
@click.option("--insecure", is_flag=True, help="No keys, with an --address that other machines reach.")
@click.option("--leave-with-parent", is_flag=True, help="Leave when standard input closes.")
def main(
    control: str,
    session: str,
    stage: int,
    stages: int,
    runtime: Path,
    host: str,
    address: str,
    keys: Path | None,
    insecure: bool,
    leave_with_parent: bool,
) -> None:
    """Serve one stage of a cluster, under a coordinator."""
    if stage >= stages:
        raise click.BadParameter(f"{stage} of {stages} stages: they are counted from 0", param_hint="--stage")
    if not session:
        raise click.BadParameter("cannot be empty", param_hint="--session")
    if address:
        _check_address(address, guarded=keys is not None or insecure)

    logging.basicConfig(level=logging.INFO, format=f"%(asctime)s %(levelname)s stage {stage}: %(message)s")
    orphaned = threading.Event()
    if leave_with_parent:
        threading.Thread(target=_leave_with_parent, args=(orphaned,), name="parent", daemon=True).start()

    import zmq

    set_defaults()
    from worker.links.keyring import Keyring
    from worker.links.transport import LOOPBACK, Transport
    from worker.model.loading import hello, load_stage_of  # imports mlx, which reads the environment
    from worker.pulse import Pulse
    from worker.service import Service
    from worker.telemetry.server import MetricsServer

    try:
        transport = Transport(
            control=control,
            session=session,
            stage=stage,
            stages=stages,
            runtime=runtime,
            address=address or LOOPBACK,
            keyring=Keyring(keys) if keys is not None else None,
        )
    except zmq.ZMQError as error:
        raise click.BadParameter(f"cannot connect to {control!r}: {error.strerror}", param_hint="--control") from error
    except ConfigError as error:
        raise click.BadParameter(error.message, param_hint="--keys") from error
    service = Service(transport, stage=stage, stages=stages, load=partial(load_stage_of, host=host))
    service.vitals.refused = transport.refused
    signal.signal(signal.SIGTERM, lambda *_: service.terminate())
    try:
        metrics = MetricsServer(service.registry, service.vitals.trace, address or LOOPBACK)
    except ClusterError as error:
        raise click.ClickException(error.message) from error
    pulse = Pulse(control=control, session=session, stage=stage, gate=transport.gate)
    pulse.start(service.vitals.heartbeat)
    try:
        sys.exit(service.run(hello(metrics.endpoint, host)))
    finally:
        metrics.close()
        pulse.close()
        if orphaned.is_set():
            _tidy(runtime)


def _check_address(address: str, *, guarded: bool) -> None:
    """Without keys anybody who reaches the address could send hidden states and read what the stage computes."""
    try:
        is_loopback = ipaddress.ip_address(address).is_loopback
    except ValueError as error:
        raise click.BadParameter(f"{address!r} is not an IP address", param_hint="--address") from error
    if not is_loopback and not guarded:
        raise click.BadParameter(
            f"other machines reach {address}: give --keys, or --insecure if the network is trusted",
            param_hint="--address",
        )


def _leave_with_parent(orphaned: threading.Event) -> None:
    """Standard input is a pipe that nobody writes to; it ends when the coordinator does, however that happens."""
    while os.read(0, 1):
        pass
    orphaned.set()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(5)
    os._exit(1)  # the compute thread is stuck and nobody is left to end it


def _tidy(runtime: Path) -> None:
    """Remove what the coordinator has left; the last worker to leave finds the directory empty."""
    (runtime / "control").unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        runtime.rmdir()


if __name__ == "__main__":
    main()
