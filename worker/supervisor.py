"""Starts workers of this machine, notices when one ends, and ends them in order. Effects only, no policy."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path

DRAIN_SECONDS = 3.0
# macOS may keep the wired memory of a killed process until it is booted again; one that leaves gives it back in time
TERMINATE_SECONDS = 20.0 if sys.platform == "darwin" else 3.0
KILL_SECONDS = 10.0  # after SIGKILL; then the process is stuck in the kernel, as in a call of a broken driver
LAST_WORDS_SECONDS = 0.05

log = logging.getLogger("stageline.workers")


class Supervisor:
    """At most one process per stage. `ended(stage, reason)` is called when one has ended and is reaped.

    The workers dial the coordinator at `endpoint` and keep their sockets in the directory `runtime`; `arguments` are
    more options for all of them. `stages` is how many the cluster has unless `start` says.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        runtime: Path,
        ended: Callable[[int, str], None],
        stages: int = 1,
        arguments: Sequence[str] = (),
    ) -> None:
        self._endpoint = endpoint
        self._runtime = runtime
        self._ended = ended
        self._stages = stages
        self._arguments = tuple(arguments)
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._waits: set[asyncio.Task[None]] = set()

    async def start(
        self,
        stage: int,
        session: str,
        *,
        stages: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> int:
        """Start a stage's worker, whose life is named `session`; returns its pid. Raises OSError if that fails.

        `environment` is added to that of this process.
        """
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "worker.cli"),  # -P: a folder `worker` where the user happens to be is not ours
            *("--control", self._endpoint, "--session", session),
            *("--stage", str(stage), "--stages", str(stages or self._stages)),
            *("--runtime", str(self._runtime), "--leave-with-parent"),
            *self._arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr,  # standard output belongs to `ready`
            process_group=0,  # a terminal's Ctrl-C is for the coordinator, which ends the workers in order
            env={**os.environ, **(environment or {})},
        )
        self._processes[stage] = process
        wait = asyncio.create_task(self._wait(stage, process))
        self._waits.add(wait)
        wait.add_done_callback(self._waited)
        return process.pid

    async def _wait(self, stage: int, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)  # its last message may still lie in the control socket
        if self._processes.get(stage) is process:
            del self._processes[stage]
        self._ended(stage, _reason(status))

    def _waited(self, wait: "asyncio.Task[None]") -> None:
        self._waits.discard(wait)
        if not wait.cancelled() and (error := wait.exception()) is not None:  # of who was told
            log.error("internal failure", exc_info=error)

    def kill(self, stage: int) -> None:
        """End a worker that does not answer any more."""
        if stage in self._processes:
            with contextlib.suppress(ProcessLookupError):
                self._processes[stage].kill()

    async def stop(self, ask: Callable[[], None], *, hearing: Collection[int]) -> None:
        """End all workers: `ask` them to leave, wait, SIGTERM, wait, SIGKILL, and reap every one that ends.

        Those that are not `hearing`, because they start or load, get the SIGTERM at once.
        """
        ask()
        self._signal(signal.SIGTERM, [stage for stage in self._processes if stage not in hearing])
        if await self._all_ended(DRAIN_SECONDS):
            return
        self._signal(signal.SIGTERM, self._processes)
        if await self._all_ended(TERMINATE_SECONDS):
            return
        self._signal(signal.SIGKILL, self._processes)
        if not await self._all_ended(KILL_SECONDS):
            stuck = ", ".join(f"stage {stage} (pid {each.pid})" for stage, each in self._processes.items())
            log.error("not waiting for %s any more: SIGKILL did not end it; only a restart of this machine may", stuck)

    def _signal(self, number: int, stages: Iterable[int]) -> None:
        for stage in stages:
            with contextlib.suppress(ProcessLookupError):
                self._processes[stage].send_signal(number)

    async def _all_ended(self, seconds: float) -> bool:
        if self._waits:
            await asyncio.wait(self._waits, timeout=seconds)
        return not self._waits


def _reason(status: int) -> str:
    """Why a process ended, in words."""
    if status >= 0:
        return f"process ended with status {status}"
    try:
        return f"process was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"process was ended by signal {-status}"
