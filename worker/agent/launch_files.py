"""What mlx.launch leaves on a host: it writes two files before it starts the agent, and removes none of them."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path


def remove_launch_files(environment: Mapping[str, str]) -> None:
    """Removes its hostfile, and beside it the file with this process's id, which it needs to end one host's process
    when another host's has ended; there is a launcher for each host here."""
    hostfile = environment.get("MLX_HOSTFILE")
    if not hostfile:
        return
    found = [Path(hostfile)]
    with contextlib.suppress(OSError):
        found += [path for path in Path(hostfile).parent.glob("tmp.*") if _is_of_this_process(path)]
    for path in found:
        with contextlib.suppress(OSError):
            path.unlink()


def _is_of_this_process(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.stat()
        return status.st_uid == os.getuid() and status.st_size < 16 and path.read_bytes() == b"%d\n" % os.getpid()
    return False
