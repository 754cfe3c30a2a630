"""How much of a Mac's memory its GPU may have.

Facts: `iogpu.wired_limit_mb` is in MiB, 0 lets macOS choose, and a change lasts until the next start; what Metal
recommends follows it (MLX's documentation of `set_wired_limit`; README of mlx-lm). Set too high it ends in a panic of
the kernel (github.com/ml-explore/mlx-lm/issues/883). Not checked on a Mac by us.
"""

import re

from worker.agent.messages import Finding
from worker.checkup.check import Check

MIB, GIB = 2**20, 2**30
SYSTEM_BYTES = 8 * GIB  # the system and its programs keep an eighth, but no less than this

RAISE = "sudo sysctl iogpu.wired_limit_mb={mebibytes}"
CHECK = Check(
    "wired_limit",
    "macOS: how much memory the GPU may have, and how far that can be raised until the next start; an eighth of the "
    "memory, at least 8 GiB, stays with the system. Warns if less than that stays.",
    (RAISE,),
)


def highest_mebibytes(total: int) -> int:
    """What the GPU of a machine with so many bytes may have without starving the system."""
    return max(total - max(SYSTEM_BYTES, total // 8), 0) // MIB


def wired_limit(total: int, recommended: int, sysctl: str) -> Finding:
    """`sysctl` is what `sysctl iogpu.wired_limit_mb` says, "iogpu.wired_limit_mb: 0" or nothing; `recommended` is what
    Metal recommends in bytes, 0 if it was not asked."""
    match = re.search(r"(\d+)\s*$", sysctl)
    if match is None:
        return CHECK.ok("this macOS has no iogpu.wired_limit_mb")
    limit, highest = int(match[1]) * MIB, highest_mebibytes(total)
    now = limit or recommended
    told = f"{now / GIB:.1f} of {total / GIB:.0f} GiB for the GPU" if now else f"{total / GIB:.0f} GiB, macOS chooses"
    told += " (set by hand)" if limit else " (macOS's own choice)" if now else ""
    raised = RAISE.format(mebibytes=highest)
    if limit > highest * MIB:
        return CHECK.warn(f"{told}: leaves {max(total - limit, 0) / GIB:.1f} GiB to the system", raised)
    if now and now < highest * MIB:
        return CHECK.ok(f"{told}, {highest / 1024:.1f} GiB possible", raised)
    return CHECK.ok(told)
