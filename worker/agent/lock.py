"""Two agents of one host would take its place from each other for ever: only one may serve a coordinator."""

import contextlib
import fcntl
import hashlib
import os
import platform
from pathlib import Path

from worker.errors import ClusterError, ConfigError


def state_directory() -> Path:
    """Where this user's programs keep what lasts; nothing cleans up there. Raises RuntimeError without a home."""
    named = Path(os.environ.get("XDG_STATE_HOME", ""))
    if named.is_absolute():
        return named / "stageline"
    inside = "Library/Application Support" if platform.system() == "Darwin" else ".local/state"
    return Path.home() / inside / "stageline"


class Lock:
    """That of one user's agents, for one host's name at one coordinator.

    The system gives it back when a process ends, however it does. Raises ConfigError if there is no place for it.
    """

    def __init__(self, name: str, coordinator: str) -> None:
        self._whose = f"{name} has another agent for {coordinator}"
        mark = hashlib.blake2b(f"{name} {coordinator}".encode(), digest_size=8).hexdigest()
        try:
            self._path = state_directory() / f"agent-{mark}"
        except RuntimeError as error:
            raise ConfigError("this user has no home directory: set XDG_STATE_HOME to one of its own") from error
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Whether it is ours now. Raises ConfigError if the file cannot be made or locked."""
        try:
            return self._take()
        except OSError as error:
            raise ConfigError(
                f"{self._path}: this agent's lock cannot be made: {error.strerror}; let this user write there, or set "
                "XDG_STATE_HOME to a directory of its own"
            ) from error

    def _take(self) -> bool:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)  # workers do not inherit it
        try:
            with contextlib.suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_ino == self._path.stat().st_ino:
                    os.truncate(descriptor, 0)
                    os.write(descriptor, str(os.getpid()).encode())
                    self._descriptor = descriptor
        finally:
            if self._descriptor is None:
                os.close(descriptor)
        return self._descriptor is not None

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
            with contextlib.suppress(OSError):
                self._path.unlink()  # first: who waits for this file finds that it is not the one any more
            os.close(self._descriptor)
            self._descriptor = None
