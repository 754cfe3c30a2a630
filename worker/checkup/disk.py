"""Room on the disks that are written to."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from worker.agent.messages import Finding
from worker.checkup.check import Check

GIB = 2**30
LEAST_BYTES = GIB

MAKE_ROOM = "make room there: `df -h {path}`"
MAY_WRITE = "sudo chown $(id -un) {path}"
CHECK = Check(
    "disk",
    "Room where the sockets, snapshots and downloaded models are. Fails where nothing can be written or what is to be "
    "downloaded does not fit, warns below 1 GiB.",
    (MAKE_ROOM, MAY_WRITE),
)


class Room(NamedTuple):
    """A directory, or the nearest parent that exists: its free bytes, whether this user may write there, and how many
    bytes are to come."""

    purpose: str
    path: Path
    free: int
    writable: bool
    needed: int = 0


def room(purpose: str, path: Path, needed: int = 0) -> Room:
    """Reads the file system."""
    there = path.expanduser().absolute()
    while not there.exists():
        there = there.parent
    return Room(purpose, there, shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK), needed)


def disk(rooms: Sequence[Room]) -> Finding:
    """All of them in one line."""
    told = "; ".join(f"{each.purpose}: {each.free / GIB:.1f} GiB free in {each.path}" for each in rooms)
    for each in rooms:
        if not each.writable:
            return CHECK.fail(f"{each.purpose}: {each.path} cannot be written", MAY_WRITE.format(path=each.path))
        if each.free < each.needed:
            return CHECK.fail(f"{told}; {each.needed / GIB:.1f} GiB are to come", MAKE_ROOM.format(path=each.path))
    full = min(rooms, key=lambda each: each.free)
    if full.free < LEAST_BYTES:
        return CHECK.warn(told, MAKE_ROOM.format(path=full.path))
    return CHECK.ok(told)
