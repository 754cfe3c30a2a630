"""A cluster of its own for the length of a measurement."""

import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager

from worker.errors import ClusterError

START_SECONDS = 600


@contextmanager
def running(model: str, stages: int) -> Generator[str]:
    """The address of a cluster that serves while the context lasts."""
    command = [sys.executable, "-P", "-m", "coordinator.cli", "up", model, "--stages", str(stages), "--port", "0"]
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line.startswith("ready "):
                log.seek(0)
                said = log.read().strip().splitlines() or ["it said nothing"]
                raise ClusterError(f"`{' '.join(command)}` did not get ready: {said[-1]}")
            yield line.split()[1]
        finally:
            process.terminate()
