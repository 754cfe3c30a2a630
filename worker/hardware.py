"""What stages can run on here, as far as it can be known without MLX: NVIDIA cards, an Apple chip, or the processor."""

import contextlib
import logging
import os
import platform
import subprocess
from typing import NamedTuple

from worker.agent.messages import Device
from worker.core_bandwidth import core_bandwidth
from worker.errors import ClusterError

SECONDS = 10.0
CARDS_SECONDS = 60.0  # a driver that nobody keeps awake takes some seconds for each card
KILLED_SECONDS = 1.0
MIB = 2**20
VISIBLE = "CUDA_VISIBLE_DEVICES"
QUERY = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,name", "--format=csv,noheader,nounits")
NO_CARDS = "No devices were found"

log = logging.getLogger("stageline.hardware")


class Found(NamedTuple):
    """The devices; `problem` says why there may be NVIDIA cards that are not among them, "" if there are none."""

    devices: tuple[Device, ...]
    problem: str


def look() -> Found:
    """Each NVIDIA card that this process may use, else an Apple chip, else the processor with one core's bandwidth."""
    cards, problem = (), ""
    try:
        cards = nvidia_cards()
    except ClusterError as error:
        problem = error.message
    return Found(cards or (apple_chip() or processor(),), problem)


def devices() -> tuple[Device, ...]:
    """The same; a problem is said in the log."""
    found = look()
    if found.problem:
        log.warning("%s", found.problem)
    return found.devices


def nvidia_cards() -> tuple[Device, ...]:
    """The cards by nvidia-smi, numbered in its order (that of the PCI bus); what CUDA_VISIBLE_DEVICES hides is left
    out. None without nvidia-smi; raises ClusterError if it is there and does not answer."""
    try:
        status, text = _ran(QUERY, CARDS_SECONDS)
    except FileNotFoundError:
        return ()
    except subprocess.TimeoutExpired as error:
        raise _no_answer(f"does not answer within {CARDS_SECONDS:g} s") from error
    except OSError as error:
        raise _no_answer(f"cannot be run: {error.strerror}") from error
    if status != 0 and NO_CARDS not in text:
        raise _no_answer(f"failed with status {status}: {text.partition(chr(10))[0] or 'it said nothing'}")
    rows = [line.split(", ", 3) for line in text.splitlines()]
    return tuple(
        Device(chip=row[3], memory_bytes=_card_bytes(row[2]), card=int(row[0]))
        for row in rows
        if len(row) == 4 and row[0].isdecimal() and _is_visible(row[0], row[1])
    )


def stage_cards(stages: int) -> tuple[int, ...]:
    """A card for each of the stages on this machine; none at all if there are fewer cards than stages."""
    try:
        cards = [device.card for device in nvidia_cards() if device.card is not None]
    except ClusterError as error:
        log.warning("%s", error.message)
        return ()
    return tuple(cards[:stages]) if len(cards) >= stages else ()


def card_environment(card: int | None) -> dict[str, str]:
    """What makes one NVIDIA card the only one that a process sees; CUDA counts by speed unless told otherwise."""
    return {} if card is None else {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", VISIBLE: str(card)}


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
        status, text = _ran(command, SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return text if status == 0 else ""


def _ran(command: tuple[str, ...], seconds: float) -> tuple[int, str]:
    """Exit status and standard output. Raises OSError or TimeoutExpired, even if the process cannot be killed: one that
    waits for a broken driver cannot."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
    )
    try:
        text, _ = process.communicate(timeout=seconds)
    except BaseException:
        process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILLED_SECONDS)
        if process.stdout is not None:
            process.stdout.close()
        raise
    return process.returncode, text.strip()


def _no_answer(what: str) -> ClusterError:
    return ClusterError(f"nvidia-smi {what}; this machine's NVIDIA cards are not used: see what `nvidia-smi -L` says")


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
