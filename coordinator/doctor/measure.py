"""How fast the devices of this machine read their memory, each measured in a process of its own, which has MLX."""

import os
import subprocess
import sys
from collections.abc import Iterable

from msgspec.structs import replace

from worker.agent.messages import Device
from worker.agent.workers import card_environment

SECONDS = 120.0


def measured(devices: Iterable[Device]) -> tuple[Device, ...]:
    """The devices with their bandwidth in bytes a second, 0 where it cannot be measured; one after the other."""
    return tuple(replace(device, bandwidth=_bandwidth(device)) for device in devices)


def _bandwidth(device: Device) -> float:
    environment = {**os.environ, **card_environment(device.card)}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "worker.bandwidth"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment,
        )
        return float(done.stdout) if done.returncode == 0 else 0.0
    except (subprocess.TimeoutExpired, ValueError):
        return 0.0
