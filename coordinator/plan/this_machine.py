"""This machine, as far as it can be known without MLX: its chip by name, or a measurement of its memory."""

import os

from coordinator.plan.chips import GIB, Figures, chips, figures, link, machine
from coordinator.plan.machine import Machine
from worker.agent.messages import Device
from worker.hardware import devices, processor

# MLX computes a quantised product on one core of a CPU and is bound by arithmetic: on an EPYC that reads 32 GB/s, a
# token of the model `bench` takes 45 ms for 73 MB. Good for nothing but the order of magnitude
CPU = Figures(usable=0.75, read=0.05, compute_tflops=0.003, layer_us=100)


def this_machine(stages: int) -> tuple[Machine, ...]:
    """What `stages` stages would run on here: a card each if there are as many, else one machine named that often."""
    local = link("local")
    known = [(device, *of_table) for device in devices() if (of_table := known_chip(device)) is not None]
    if len(known) >= stages and known[0][0].card is not None:
        return tuple(
            machine(f"{chip} card {device.card}", chip, found, where="this machine", link=local)
            for device, chip, found in known[:stages]
        )
    if known:
        _, chip, found = known[0]
        at_once = 1
    else:
        chip, found = known_processor(processor())
        at_once = os.cpu_count() or 1
    return (machine(f"this machine ({chip})", chip, found, where="this machine", link=local, stages=at_once),) * stages


def known_chip(device: Device) -> tuple[str, Figures] | None:
    """The chip of the table that this device is, with the device's own memory, and its measured bandwidth if there is
    one; None if the table does not know it."""
    exact = (name for name in chips() if name.lower() == device.chip.lower())
    within = (name for name in chips() if device.card is not None and name in device.chip)  # "NVIDIA H200 NVL"
    chip = next(exact, None) or next(within, None)
    known = figures(chip) if chip else None
    if chip is None or known is None:
        return None
    if device.bandwidth:  # measured: all of it can be sustained
        known = Figures(read=1.0).over(known)
    return chip, _measured(device).over(known)


def known_processor(device: Device) -> tuple[str, Figures]:
    """What can be said of any processor."""
    return device.chip, _measured(device).over(CPU)


def _measured(device: Device) -> Figures:
    return Figures(
        memory_gib=device.memory_bytes / GIB if device.memory_bytes else None,
        bandwidth_gbs=device.bandwidth / 1e9 if device.bandwidth else None,
    )
