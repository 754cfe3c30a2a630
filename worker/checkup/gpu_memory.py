"""Free memory of NVIDIA cards.

The columns of `nvidia-smi --query-gpu` are described by `nvidia-smi --help-query-gpu`; MiB without units.
"""

from worker.agent.messages import Finding
from worker.checkup.check import Check

QUERY = ("nvidia-smi", "--query-gpu=index,name,memory.total,memory.free", "--format=csv,noheader,nounits")
LEAST_SHARE = 0.9
MIB_PER_GIB = 1024

END_OTHERS = "end what holds it: `nvidia-smi` lists the programs"
CHECK = Check(
    "gpu_memory",
    "NVIDIA: memory of each card and what of it is free. Warns if another program holds more than a tenth.",
    (END_OTHERS,),
)


def card_count(listed: str) -> int:
    """Cards in an answer to `QUERY`."""
    return len(listed.splitlines())


def gpu_memory(listed: str) -> Finding:
    """`listed` answers `QUERY`, a line a card: "0, NVIDIA H200, 143771, 143150"; "[N/A]" where memory is shared."""
    told: list[str] = []
    held = False
    for line in listed.splitlines():
        number, name, *memory = (part.strip() for part in line.split(","))
        sizes = [int(part) for part in memory if part.isdecimal()]
        if len(sizes) != 2:
            told.append(f"card {number}: {name}, in the machine's memory")
            continue
        total, free = sizes
        held = held or free < LEAST_SHARE * total
        told.append(f"card {number}: {name}, {free / MIB_PER_GIB:.1f} of {total / MIB_PER_GIB:.1f} GiB free")
    if held:
        return CHECK.warn("; ".join(told), END_OTHERS)
    return CHECK.ok("; ".join(told))
