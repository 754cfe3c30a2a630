"""What stages can run on here, as far as it can be known without MLX: NVIDIA cards, an Apple chip, or the processor."""

import os
import platform
import subprocess

from worker.agent.messages import Device
from worker.core_bandwidth import core_bandwidth

SECONDS = 10.0
MIB = 2**20
VISIBLE = "CUDA_VISIBLE_DEVICES"


def devices() -> tuple[Device, ...]:
    """Each NVIDIA card that this process may use, else an Apple chip, else the processor with one core's bandwidth."""
    return nvidia_cards() or (apple_chip() or processor(),)


def nvidia_cards() -> tuple[Device, ...]:
    """The cards by nvidia-smi, numbered in its order (that of the PCI bus); what CUDA_VISIBLE_DEVICES hides is left
    out."""
    query = "--query-gpu=index,uuid,memory.total,name"
    rows = [line.split(", ", 3) for line in said("nvidia-smi", query, "--format=csv,noheader,nounits").splitlines()]
    return tuple(
        Device(chip=row[3], memory_bytes=_card_bytes(row[2]), card=int(row[0]))
        for row in rows
        if len(row) == 4 and row[0].isdecimal() and _is_visible(row[0], row[1])
    )


def apple_chip() -> Device | None:
    """The chip of this Mac, None elsewhere."""
    brand = said("sysctl", "-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else ""
    if not brand.startswith("Apple "):
        return None
    return Device(chip=brand.removeprefix("Apple "), memory_bytes=memory_bytes())


def processor() -> Device:
    """All cores as one device; its bandwidth is one core's, since MLX's quantised products use one."""
    return Device(chip=platform.machine() or "CPU", memory_bytes=memory_bytes(), bandwidth=core_bandwidth())


def memory_bytes() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def said(*command: str) -> str:
    """What a command prints; nothing if it is not there, fails or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _card_bytes(mebibytes: str) -> int:
    """A chip that shares the machine's memory says that it has none."""
    return int(mebibytes) * MIB if mebibytes.isdecimal() else memory_bytes()


def _is_visible(index: str, uuid: str) -> bool:
    """CUDA takes numbers and (beginnings of) UUIDs, and nothing that follows a word it does not know."""
    words = os.environ.get(VISIBLE)
    if words is None:
        return True
    named = [word.strip() for word in words.split(",")]
    return any(word == index or (word.startswith("GPU-") and uuid.startswith(word)) for word in named)
