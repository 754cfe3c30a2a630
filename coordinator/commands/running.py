"""A cluster of its own for the length of a measurement."""

import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from worker.errors import ClusterError, StagelineError, UserError

START_SECONDS = 600


@contextmanager
def running(model: str, stages: int) -> Generator[str]:
    """The address of a cluster that serves while the context lasts.

    Raises UserError if `stageline up` calls it the user's mistake, ClusterError if it does not get ready otherwise.
    """
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
                raise failure(command, process.wait() if not line else None, log.read())
            yield line.split()[1]
        finally:
            process.terminate()


def failure(command: Sequence[str], status: int | None, said: str) -> StagelineError:
    """What a process of ours ended with, `said` on its stderr: the user's mistake in its own words, or our failure.

    A `status` of None is of one that still runs.
    """
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    if status == UserError.exit_status:
        return UserError(last.removeprefix("stageline: error: "))
    ended = "did not get ready" if status is None else f"ended with status {status}"
    return ClusterError(f"`{' '.join(command)}` {ended}: {last}")
