"""What an agent finds out for its coordinator: the model, the way to the other hosts, the memory's speed."""

from collections.abc import Sequence
from pathlib import Path

import zmq

from worker.agent.address import parse_tcp
from worker.agent.background import in_background
from worker.agent.messages import Device, Finding, Peer, Survey, Surveyed
from worker.agent.round_trips import round_trips
from worker.agent.runtime import Runtime
from worker.checkpoint.model_hash import model_hash
from worker.errors import StagelineError
from worker.links.gate import Gate
from worker.links.sockets import AnySocket
from worker.measured import measured


async def survey(
    order: Survey,
    *,
    context: zmq.Context[AnySocket],
    gate: Gate | None,
    devices: Sequence[Device],
    keys: Path | None,
    runtime: Runtime,
) -> Surveyed:
    """The answer to `order`. What cannot be found out is said in it; nothing is raised."""
    # first, and alone: what comes next keeps the processor busy
    trips = await in_background(lambda: round_trips(context, order.peers, gate))
    found, problem = await in_background(lambda: _hash(order.model))
    if order.measure:
        devices = await measured(devices)
    findings = await in_background(lambda: _checks(keys, runtime, order.peers)) if order.checks else ()
    return Surveyed(
        model_hash=found, problem=problem, round_trips=trips, devices=tuple(devices), findings=tuple(findings)
    )


def _hash(model: str) -> tuple[str, str]:
    if not model:
        return "", ""
    try:
        return model_hash(model), ""
    except StagelineError as error:
        return "", error.message
    except Exception as error:  # it is the coordinator that tells the user
        return "", f"{model}: unexpected {type(error).__name__}: {error}"


def _checks(keys: Path | None, runtime: Runtime, peers: Sequence[Peer]) -> Sequence[Finding]:
    from worker.checkup import checkup  # looks at much that nobody else needs

    try:
        runtime.renew()
        return checkup(keys=keys, runtime=runtime.path, peers=[parse_tcp(peer.echo) for peer in peers])
    except Exception as error:
        return (Finding(check="checkup", level="fail", found=f"unexpected {type(error).__name__}: {error}"),)
