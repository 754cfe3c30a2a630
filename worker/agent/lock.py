"""Two agents of one host would take its place from each other for ever: only one may serve a coordinator."""

import contextlib
import fcntl
import hashlib
import os
from pathlib import Path

from worker.errors import ClusterError


class Lock:
    """That of one user's agents, for one host's name at one coordinator.

    The system gives it back when a process ends, however it does.
    """

    def __init__(self, name: str, coordinator: str) -> None:
        self._whose = f"{name} has another agent for {coordinator}"
        mark = hashlib.blake2b(f"{name} {coordinator}".encode(), digest_size=8).hexdigest()
        self._path = Path(f"/tmp/stageline-agent-{os.getuid()}-{mark}")
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours now."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # workers do not inherit it
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == self._path.stat().st_ino:
                os.truncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                self._descriptor = descriptor
                return True
        except (BlockingIOError, FileNotFoundError):
            pass
        os.close(descriptor)
        return False

    def refusal(self) -> ClusterError:
        """What to say when it is another one's."""
        pid = ""
        with contextlib.suppress(OSError):
            pid = self._path.read_text()
        return ClusterError(
            f"{self._whose}, with pid {pid or 'unknown'}: end it, or if the system keeps it running, start the "
            "coordinator with --no-launch (`stageline agent uninstall` removes the service)"
        )

    def release(self) -> None:
        """Give it back, and the file with it."""
        if self._descriptor is not None:
            self._path.unlink(missing_ok=True)  # first: who waits for this file finds that it is not the one any more
            os.close(self._descriptor)
            self._descriptor = None
