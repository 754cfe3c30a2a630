"""What mlx.launch leaves on a host: it writes two files before it starts the agent, and removes none of them."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path

LARGEST_BYTES = 16


def remove_launch_files(environment: Mapping[str, str]) -> None:
    """Removes its hostfile, blank for a launcher with one host, and beside it the file with this process's id, which it
    needs to end one host's process when another host's has ended; there is a launcher for each host here.

    A hostfile that a user wrote and named in MLX_HOSTFILE stays.
    """
    hostfile = environment.get("MLX_HOSTFILE")
    if not hostfile or "MLX_RANK" not in environment:
        return
    found = [Path(hostfile)] if _holds(Path(hostfile), b"") else []
    with contextlib.suppress(OSError):
        found += [path for path in Path(hostfile).parent.glob("tmp.*") if _holds(path, b"%d" % os.getpid())]
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()


def _holds(path: Path, word: bytes) -> bool:
    """Whether it is a file as mktemp(1) names them, of this user, with nothing but this word in it."""
    if not path.name.startswith("tmp."):
        return False
    with contextlib.suppress(OSError):
        status = path.lstat()
        return status.st_uid == os.getuid() and status.st_size < LARGEST_BYTES and path.read_bytes().strip() == word
    return False
