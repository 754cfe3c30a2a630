"""The running cluster: workers, links and requests brought together. The shell of effects around the pure parts
(`cluster`, `scheduler`)."""

import asyncio
import itertools
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, Coroutine
from pathlib import Path

import msgspec

from coordinator.cluster import Cluster, ClusterView, Orders
from coordinator.control import Control
from coordinator.request import Request, Token
from coordinator.scheduler import Scheduler
from coordinator.supervisor import Supervisor
from worker.errors import CheckpointError, ClusterError, NotReadyError, StageFailedError, StagelineError
from worker.protocol import Closed, Failed, Fault, Message, Stop, Tokens

log = logging.getLogger("stageline.pipeline")

LEASE_STEPS = 32
CHECK_SECONDS = 1.0
MAX_FAILURES_IN_A_ROW = 5


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How a pipeline behaves, times in seconds.

    A worker is ended after `silence` without a sign of life, `loading` without progress of loading, or `stall` in one
    step. One that failed twice in a row is started again after `backoff`, which doubles up to `backoff_limit`.
    """

    prefill_chunk: int
    silence: float
    loading: float
    backoff: float
    backoff_limit: float
    stall: float = 300.0
    max_running: int = 16


class Pipeline:
    """Serves requests over the stages of `cluster`. Use `async with`; leaving it ends every worker."""

    def __init__(self, cluster: Cluster, *, limits: Limits) -> None:
        stages = cluster.stages
        self._cluster = cluster
        self._limits = limits
        self._scheduler = Scheduler(
            batches=stages, chunk=limits.prefill_chunk, lease=LEASE_STEPS, max_running=limits.max_running
        )
        self._streams: dict[int, asyncio.Queue[Token | StagelineError]] = {}
        self._numbers = itertools.count(1)
        self._failures = [0] * stages
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_words: dict[int, Failed] = {}
        self.fatal: asyncio.Future[StagelineError] = asyncio.get_running_loop().create_future()
        # /tmp and not the user's temporary directory, which is too long for a socket path on macOS
        self._runtime = Path(tempfile.mkdtemp(prefix=f"stageline-{os.getuid()}-", dir="/tmp"))
        endpoint = f"ipc://{self._runtime}/control"
        self._control = Control(endpoint, self._received)
        self._supervisor = Supervisor(stages=stages, endpoint=endpoint, runtime=self._runtime, ended=self._ended)
        self._stages = stages

    async def __aenter__(self) -> "Pipeline":
        self._spawn(self._watch())
        for stage in range(self._stages):
            await self._start(stage)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cluster.stop()
        self._scheduler.halt()
        self._fail(list(self._streams), NotReadyError("the cluster is stopping"))
        try:
            await self._supervisor.stop(lambda: self._send([(stage, Stop()) for stage in range(self._stages)]))
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._control.close()
            shutil.rmtree(self._runtime, ignore_errors=True)

    # --- for the API ---

    async def generate(self, request: Request) -> AsyncGenerator[Token, None]:
        """The request's tokens as they come. Closing the generator early cancels the request on every stage.

        Raises NotReadyError before the first token, StageFailedError at any time.
        """
        problem = self.problem()
        if problem is not None:
            raise NotReadyError(problem)
        number = next(self._numbers)
        stream: asyncio.Queue[Token | StagelineError] = asyncio.Queue()
        self._streams[number] = stream
        try:
            self._to_first(self._scheduler.submit(number, request))
            while True:
                item = await stream.get()
                if isinstance(item, StagelineError):
                    raise item
                yield item
                if item.finish is not None:
                    return
        finally:
            del self._streams[number]
            self._to_first(self._scheduler.cancel(number))

    def problem(self) -> str | None:
        """Why no request can run now, naming the stage; None if one can."""
        return self._cluster.problem()

    def view(self) -> ClusterView:
        """The cluster as `/cluster` shows it."""
        return self._cluster.view(running=self._scheduler.running, waiting=self._scheduler.waiting)

    async def changed(self) -> None:
        """Wait until the view may have changed."""
        self._changed.clear()
        await self._changed.wait()

    # --- events ---

    def _received(self, stage: int, session: str, message: Message) -> None:
        was_ready = self._cluster.is_ready
        try:
            self._send(self._cluster.received(stage, session, message, time.monotonic()))
        except ClusterError as error:
            self._give_up(error)
        if session != self._cluster.session(stage):
            return
        match message:
            case Tokens(epoch=epoch) if epoch == self._scheduler.epoch:
                deliveries, orders = self._scheduler.sampled(message)
                self._to_first(orders)
                for number, token in deliveries:
                    if number in self._streams:
                        self._streams[number].put_nowait(token)
            case Closed(epoch=epoch, request=number) if epoch == self._scheduler.epoch:
                self._to_first(self._scheduler.closed(number))
            case Fault(epoch=epoch) if epoch == self._cluster.epoch:
                self._fault(stage, message)
            case Failed():
                self._last_words[stage] = message
            case _:
                pass
        if self._cluster.is_ready and not was_ready:
            self._failures = [0] * self._stages
            self._to_first(self._scheduler.begin(self._cluster.epoch))
        self._changed.set()

    def _fault(self, stage: int, fault: Fault) -> None:
        reason = f"{self._cluster.describe(stage)}: {fault.message}"
        log.error("fault %s at %s", fault.code, reason)
        self._send(self._cluster.restart_epoch())
        self._abandon(StageFailedError(f"{reason}; the request's state is lost, send it again"))

    def _ended(self, stage: int, reason: str) -> None:
        """A worker process is gone: fail what ran, start it again."""
        if self._cluster.stopping:
            return
        words = self._last_words.pop(stage, None)
        where = self._cluster.describe(stage)
        if words is not None:
            reason = words.message
        log.error("%s is down: %s", where, reason)
        self._send(self._cluster.lost(stage, reason))
        self._abandon(
            StageFailedError(f"{where} is down ({reason}); it is being started again, send the request again")
        )
        self._changed.set()
        self._failures[stage] += 1
        if words is not None and words.user:
            self._give_up(CheckpointError(words.message))
        elif self._failures[stage] >= MAX_FAILURES_IN_A_ROW:
            self._give_up(ClusterError(f"{where} failed {self._failures[stage]} times in a row: {reason}"))
        else:
            self._spawn(self._restart(stage))

    async def _restart(self, stage: int) -> None:
        failures = self._failures[stage]
        if failures > 1:
            await asyncio.sleep(min(self._limits.backoff * 2 ** (failures - 2), self._limits.backoff_limit))
        await self._start(stage)

    async def _start(self, stage: int) -> None:
        session, pid = await self._supervisor.start(stage)
        self._cluster.spawned(stage, session, pid, time.monotonic())
        self._changed.set()

    async def _watch(self) -> None:
        """End workers that went silent; the supervisor then starts them again."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            limits = self._limits
            for stage, why in self._cluster.overdue(
                now, silence=limits.silence, loading=limits.loading, stall=limits.stall
            ):
                log.error("%s: %s, ending it", self._cluster.describe(stage), why)
                self._supervisor.kill(stage)

    # --- effects ---

    def _send(self, orders: Orders) -> None:
        for stage, message in orders:
            session = self._cluster.session(stage)
            if session:
                self._control.send(stage, session, message)

    def _to_first(self, messages: list[Message]) -> None:
        self._send([(0, message) for message in messages])

    def _abandon(self, error: StagelineError) -> None:
        """The epoch is over: every request that ran ends with this error; those that wait go on waiting."""
        self._fail(self._scheduler.halt(), error)

    def _fail(self, numbers: list[int], error: StagelineError) -> None:
        for number in numbers:
            if number in self._streams:
                self._streams[number].put_nowait(error)

    def _give_up(self, error: StagelineError) -> None:
        if not self.fatal.done():
            self.fatal.set_result(error)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal failure", exc_info=error)
            self._give_up(ClusterError(f"internal failure: {error!r}"))
