"""What an agent finds out for its coordinator: the model, the way to the other hosts, the memory's speed."""

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import zmq
from msgspec.structs import replace

from worker.agent.address import parse_tcp
from worker.agent.background import in_background
from worker.agent.messages import Device, Finding, Peer, Survey, Surveyed
from worker.agent.round_trips import round_trips
from worker.agent.workers import card_environment
from worker.errors import StagelineError
from worker.gate import Gate
from worker.model_hash import model_hash
from worker.sockets import AnySocket

log = logging.getLogger("stageline.agent")

MEASURE_SECONDS = 60.0  # with MLX's start on a busy machine


async def survey(
    order: Survey,
    *,
    context: zmq.Context[AnySocket],
    gate: Gate | None,
    devices: Sequence[Device],
    keys: Path | None,
    runtime: Path,
) -> Surveyed:
    """The answer to `order`. What cannot be found out is said in it; nothing is raised."""
    # first, and alone: what comes next keeps the processor busy
    trips = await in_background(lambda: round_trips(context, order.peers, gate))
    found, problem = await in_background(lambda: _hash(order.model))
    if order.measure:
        devices = await asyncio.gather(*(_measured(device) for device in devices))
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


async def _measured(device: Device) -> Device:
    """The device with its read bandwidth, in a process of its own: MLX cannot let go of a device."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "worker.bandwidth"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **card_environment(device.card)},
    )
    try:
        async with asyncio.timeout(MEASURE_SECONDS):
            said, _ = await process.communicate()
        return replace(device, bandwidth=float(said))
    except (TimeoutError, ValueError):
        log.warning("%s: its bandwidth could not be measured: run `python -m worker.bandwidth` to see why", device.chip)
        return device
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _checks(keys: Path | None, runtime: Path, peers: Sequence[Peer]) -> Sequence[Finding]:
    from worker.checkup import checkup  # looks at much that nobody else needs

    try:
        return checkup(keys=keys, runtime=runtime, peers=[parse_tcp(peer.echo) for peer in peers])
    except Exception as error:
        return (Finding(check="checkup", level="fail", found=f"unexpected {type(error).__name__}: {error}"),)
