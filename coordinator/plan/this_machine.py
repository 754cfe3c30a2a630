"""This machine, as far as it can be known without MLX: its chip by name, or a measurement of its memory."""

import os
import platform
import subprocess

from coordinator.plan.chips import GIB, Figures, chips, figures, link, machine
from coordinator.plan.machine import Machine
from worker.core_bandwidth import core_bandwidth

SECONDS = 5.0
# MLX computes a quantised product on one core of a CPU and is bound by arithmetic: on an EPYC that reads 32 GB/s, a
# token of the model `bench` takes 45 ms for 73 MB. Good for nothing but the order of magnitude
CPU = Figures(usable=0.75, read=0.05, compute_tflops=0.003, layer_us=100)


def this_machine(stages: int) -> tuple[Machine, ...]:
    """What `stages` stages would run on here: a card each if there are as many, else one machine named that often."""
    local = link("local")
    cards = _nvidia_cards()
    if len(cards) >= stages:
        return tuple(
            machine(f"{chip} card {number}", chip, known, where="this machine", link=local)
            for number, (chip, known) in enumerate(cards[:stages])
        )
    gpu = cards[0] if cards else _apple()
    chip, known = gpu or _cpu()
    at_once = 1 if gpu else os.cpu_count() or 1
    return (machine(f"this machine ({chip})", chip, known, where="this machine", link=local, stages=at_once),) * stages


def _apple() -> tuple[str, Figures] | None:
    brand = _said("sysctl", "-n", "machdep.cpu.brand_string") if platform.system() == "Darwin" else ""
    known = figures(chip := brand.removeprefix("Apple "))
    return None if known is None else (chip, Figures(memory_gib=_memory() / GIB).over(known))


def _nvidia_cards() -> list[tuple[str, Figures]]:
    cards: list[tuple[str, Figures]] = []
    for line in _said("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits").splitlines():
        name, _, mebibytes = line.rpartition(",")
        chip = next((chip for chip in chips() if chip in name), None)
        known = figures(chip) if chip else None
        if chip and known:
            memory = float(mebibytes) / 1024 if mebibytes.strip().isdecimal() else known.memory_gib
            cards.append((chip, Figures(memory_gib=memory).over(known)))
    return cards


def _cpu() -> tuple[str, Figures]:
    measured = Figures(memory_gib=_memory() / GIB, bandwidth_gbs=core_bandwidth() / 1e9)
    return platform.machine() or "CPU", measured.over(CPU)


def _memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _said(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
