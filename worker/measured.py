"""How fast the devices of this machine read their memory, each measured in a process of its own, which has MLX."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterable

from msgspec.structs import replace

from worker.agent.messages import Device
from worker.hardware import card_environment

SECONDS = 120.0  # with MLX's start on a busy machine

log = logging.getLogger("stageline.bandwidth")


async def measured(devices: Iterable[Device]) -> tuple[Device, ...]:
    """The devices, all at once, with their bandwidth in bytes a second; as they were where it cannot be measured."""
    return tuple(await asyncio.gather(*map(_measured, devices)))


async def _measured(device: Device) -> Device:
    """In a process of its own: MLX cannot let go of a device."""
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "worker.bandwidth"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **card_environment(device.card)},
        )
    except OSError as error:
        log.warning("%s: its bandwidth could not be measured: no process can be started: %s", device.chip, error)
        return device
    try:
        async with asyncio.timeout(SECONDS):
            said, _ = await process.communicate()
        return replace(device, bandwidth=float(said))
    except (TimeoutError, ValueError):
        log.warning("%s: its bandwidth could not be measured: run `python -m worker.bandwidth` to see why", device.chip)
        return device
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
