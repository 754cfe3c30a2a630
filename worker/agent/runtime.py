"""The directory for the socket files of one session's workers."""

import os
import shutil
import stat
import tempfile
from pathlib import Path

from worker.errors import ClusterError

PARENT = "/tmp"  # and not the user's temporary directory, which is too long for a socket path on macOS


class Runtime:
    """A new one, for this user alone. Raises ClusterError if it cannot be made."""

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=f"stageline-{os.getuid()}-", dir=PARENT))
        except OSError as error:
            raise ClusterError(
                f"no directory for sockets can be made in {PARENT}: {error.strerror}; make room, and let this user "
                "write there"
            ) from error

    def renew(self) -> None:
        """Make it again if it is gone: systems remove what lies in /tmp unused for days. Raises ClusterError."""
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError as error:
            status = self.path.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise ClusterError(f"{self.path} is somebody else's now: restart this agent") from error
        except OSError as error:
            raise ClusterError(f"{self.path}: cannot be made again: {error.strerror}") from error

    def remove(self) -> None:
        """With all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
