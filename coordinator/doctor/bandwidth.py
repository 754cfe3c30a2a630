"""How fast each device reads its memory, beside what is known of its chip. Pure."""

from collections.abc import Sequence

from msgspec.structs import replace

from coordinator.plan.this_machine import known_chip
from worker.agent.messages import Device, Finding
from worker.checkup.check import Check

LEAST_SHARE = 0.8  # of what the table says that a long read reaches

FREE_IT = "end what else uses it; on a Mac turn off low power mode: `sudo pmset -a lowpowermode 0`"
CHECK = Check(
    "bandwidth",
    "Read bandwidth of each device's memory, beside what coordinator/plan/machines.toml says of its chip; a decode "
    "step is bound by it. Only with --measure. Warns below four fifths of that.",
    (FREE_IT,),
)


def bandwidth(devices: Sequence[Device]) -> Finding:
    """`Device.bandwidth` is 0 where nothing was measured."""
    slow = False
    told: list[str] = []
    for device in devices:
        name = device.chip if device.card is None else f"card {device.card}, {device.chip}"
        known = known_chip(replace(device, bandwidth=0.0))
        stated, expected = (known[1].bandwidth_gbs, known[1].read) if known else (None, None)
        if not device.bandwidth:
            told.append(f"{name}: could not be measured")
        elif stated is None or expected is None:
            told.append(f"{name}: {device.bandwidth / 1e9:.1f} GB/s")
        else:
            share = device.bandwidth / 1e9 / stated
            slow = slow or share < LEAST_SHARE * expected
            told.append(
                f"{name}: {device.bandwidth / 1e9:.0f} GB/s, {share:.0%} of what its maker states "
                f"({expected:.0%} expected)"
            )
    return CHECK.warn("; ".join(told), FREE_IT) if slow else CHECK.ok("; ".join(told))
