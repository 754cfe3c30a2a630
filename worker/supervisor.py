"""Starts the local workers, notices when one ends, and ends them in order. Effects only, no policy."""

import asyncio
import contextlib
import signal
import sys
import uuid
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

DRAIN_SECONDS = 3.0
TERMINATE_SECONDS = 3.0
LAST_WORDS_SECONDS = 0.05


class Supervisor:
    """One process per stage. `ended(stage, reason)` is called when one has ended and is reaped."""

    def __init__(self, *, stages: int, endpoint: str, runtime: Path, ended: Callable[[int, str], None]) -> None:
        self._stages = stages
        self._endpoint = endpoint
        self._runtime = runtime
        self._ended = ended
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._waits: set[asyncio.Task[None]] = set()

    async def start(self, stage: int) -> tuple[str, int]:
        """Start a stage's worker; returns its session and pid."""
        session = uuid.uuid4().hex[:12]
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-P", "-m", "worker.cli"),  # -P: a folder `worker` where the user happens to be is not ours
            *("--control", self._endpoint, "--session", session),
            *("--stage", str(stage), "--stages", str(self._stages)),
            *("--runtime", str(self._runtime), "--leave-with-parent"),
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr,  # standard output belongs to `ready`
            process_group=0,  # a terminal's Ctrl-C is for the coordinator, which ends the workers in order
        )
        self._processes[stage] = process
        wait = asyncio.create_task(self._wait(stage, process))
        self._waits.add(wait)
        wait.add_done_callback(self._waits.discard)
        return session, process.pid

    async def _wait(self, stage: int, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        await asyncio.sleep(LAST_WORDS_SECONDS)  # its last message may still lie in the control socket
        if self._processes.get(stage) is process:
            del self._processes[stage]
        self._ended(stage, _reason(status))

    def kill(self, stage: int) -> None:
        """End a worker that does not answer any more."""
        if stage in self._processes:
            with contextlib.suppress(ProcessLookupError):
                self._processes[stage].kill()

    async def stop(self, ask: Callable[[], None], *, hearing: Collection[int]) -> None:
        """End all workers: `ask` them to leave, wait, SIGTERM, wait, SIGKILL, and reap every one.

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
        await self._all_ended(None)

    def _signal(self, number: int, stages: Iterable[int]) -> None:
        for stage in stages:
            with contextlib.suppress(ProcessLookupError):
                self._processes[stage].send_signal(number)

    async def _all_ended(self, seconds: float | None) -> bool:
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
