"""The machine's memory, and how much of it is free."""

import re
from pathlib import Path

from worker.agent.messages import Finding
from worker.checkup.check import Check

LEAST_SHARE = 0.5
GIB = 2**30

END_OTHERS = "end what holds it: `ps -eo rss,pid,args --sort=-rss | head` lists the largest"
CHECK = Check(
    "memory",
    "Memory of the machine and what of it is available. Warns if that is less than half.",
    (END_OTHERS,),
)


def meminfo() -> str:
    """What Linux says of its memory; "" elsewhere."""
    try:
        return Path("/proc/meminfo").read_text()
    except OSError:
        return ""


def memory(total: int, meminfo: str) -> Finding:
    """`meminfo` is the text of /proc/meminfo, which has lines as `MemAvailable:   24216672 kB`."""
    available = re.search(r"^MemAvailable:\s+(\d+) kB$", meminfo, re.MULTILINE)
    told = f"{total / GIB:.1f} GiB"
    if available is None:
        return CHECK.ok(told)
    free = int(available[1]) * 1024
    told = f"{told}, {free / GIB:.1f} GiB available"
    if free < LEAST_SHARE * total:
        return CHECK.warn(told, END_OTHERS)
    return CHECK.ok(told)
