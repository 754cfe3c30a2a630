"""The running cluster: stages and waiting clients. What to do is decided by the pure parts
(`coordination`, `restarts`); here it is done."""

import asyncio
import itertools
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Coroutine
from typing import Self

import msgspec

from coordinator.cluster import Cluster
from coordinator.coordination import Coordination, Effects
from coordinator.limits import Limits
from coordinator.request import Request, Token
from coordinator.restarts import Restarts
from coordinator.scheduling.budget import Budget
from coordinator.scheduling.pace import Pace
from coordinator.scheduling.scheduler import Scheduler
from coordinator.site import Site
from coordinator.telemetry.history import SAMPLE_SECONDS
from coordinator.telemetry.observer import Observer
from coordinator.view import ClusterView, PrefixView
from worker.errors import (
    CancelledRequestError,
    CheckpointError,
    ClusterError,
    ConfigError,
    NotReadyError,
    StagelineError,
)
from worker.protocol import Closed, Failed, Message, Open, Stop

log = logging.getLogger("stageline.pipeline")

LEASE_STEPS = 32
CHECK_SECONDS = 1.0

Arrival = tuple[Token | StagelineError, float]  # and when it came


class Pipeline:
    """Serves requests over the stages of `cluster`, which run at `site`. Use `async with`, which ends every
    worker.

    `fatal` is done when the cluster cannot go on, with the reason. `observer` hears what happens to requests.
    """

    def __init__(self, cluster: Cluster, site: Site, *, limits: Limits, observer: Observer) -> None:
        self._cluster = cluster
        self._site = site
        self._observer = observer
        self._limits = limits
        self._scheduler = Scheduler(
            stages=cluster.stages,
            lease=LEASE_STEPS,
            bounds=limits.bounds,
            budget=Budget(),
            pace=Pace(most=limits.prefill_chunk, pause=limits.decode_pause),
        )
        self._coordination = Coordination(
            cluster, self._scheduler, state_bytes=limits.state_bytes, snapshot_bytes=limits.snapshot_bytes
        )
        self._restarts = Restarts(cluster.stages, backoff=limits.backoff, limit=limits.backoff_limit)
        self._streams: dict[int, asyncio.Queue[Arrival]] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_words: dict[int, Failed] = {}
        self.fatal: asyncio.Future[StagelineError] = asyncio.get_running_loop().create_future()
        site.attach(self._received, self._ended, self._hindered)

    async def __aenter__(self) -> Self:
        try:
            self._spawn(self._watch())
            self._spawn(self._sample())
            for stage in range(self._cluster.stages):
                self._spawn(self._start(stage))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._cluster.stop()
        self._scheduler.halt()
        for number in list(self._streams):
            self._deliver(number, NotReadyError("the cluster is stopping"), time.monotonic())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        hearing = {stage for stage in range(self._cluster.stages) if self._cluster.hears(stage)}
        try:
            await self._site.stop(
                lambda: self._carry_out(Effects([(stage, Stop()) for stage in hearing])), hearing=hearing
            )
        finally:
            self._site.close()

    # --- for the API ---

    async def generate(self, request: Request) -> AsyncGenerator[Token, None]:
        """The request's tokens as they come. Closing the generator early cancels the request on every stage.

        Raises NotReadyError, NoRoomError or QueueFullError before the first token: then it was not taken; and
        StageFailedError, DeadlineError or CancelledRequestError at any time.
        """
        problem = self.problem()
        if problem is not None:
            raise NotReadyError(problem)
        number = next(self._numbers)
        now = time.monotonic()
        taken = self._coordination.submit(number, request, now)
        stream: asyncio.Queue[Arrival] = asyncio.Queue()
        self._streams[number] = stream
        self._observer.arrived(number, request, now)
        try:
            self._carry_out(taken)
            while True:
                item, arrived = await stream.get()
                if isinstance(item, StagelineError):
                    raise item
                self._observer.token(number, arrived)
                yield item
                if item.finish is not None:
                    return
        finally:
            del self._streams[number]
            self._carry_out(self._coordination.cancel(number))

    async def cancel(self, number: int) -> None:
        """Ends the request with an error for whoever waits for its tokens; returns when every stage has freed it.

        Nothing happens if it has ended.
        """
        error = CancelledRequestError("the request was cancelled")
        effects = self._coordination.cancel(number)
        effects.errors.append((number, error))
        self._carry_out(effects)
        await self.freed(number)

    async def freed(self, number: int) -> None:
        """Wait until every stage has freed the request; at once if it is unknown."""
        while self._scheduler.holds(number):
            await self.changed()

    def problem(self) -> str | None:
        """Why no request can run now, naming the stage; None if one can."""
        if self.fatal.done():
            return self.fatal.result().message
        return self._cluster.problem()

    def view(self) -> ClusterView:
        """The cluster as `/cluster` shows it."""
        now = time.monotonic()
        view = self._cluster.view(now, running=self._scheduler.running, waiting=self._scheduler.waiting)
        prefixes = self._scheduler.prefixes
        counts = msgspec.structs.asdict(prefixes.counts)
        view = msgspec.structs.replace(
            view, prefixes=PrefixView(**counts, snapshots=prefixes.snapshots), refused=dict(self._site.refused)
        )
        return self._observer.complete(view, now)

    async def changed(self) -> None:
        """Wait until the view may have changed."""
        self._changed.clear()
        await self._changed.wait()

    # --- events ---

    def _received(self, stage: int, session: str, message: Message) -> None:
        was_ready = self._cluster.is_ready
        now = time.monotonic()
        if isinstance(message, Failed):
            self._last_words[stage] = message
        elif isinstance(message, Closed):
            self._observer.closed(message.request, message.times)
        try:
            effects = self._coordination.received(stage, session, message, now)
        except (ClusterError, ConfigError) as error:
            self._give_up(error)
            return
        if self._cluster.is_ready and not was_ready:
            self._restarts.ready(now)
        if effects.errors:
            log.error("%s", effects.errors[0][1].message)
        self._carry_out(effects)
        self._changed.set()

    def _ended(self, stage: int, reason: str) -> None:
        """A worker process is gone: fail what ran, start it again."""
        if self._cluster.stopping:
            return
        words = self._last_words.pop(stage, None)
        where = self._cluster.describe(stage)
        reason = words.message if words is not None else reason
        log.error("%s is down: %s", where, reason)
        now = time.monotonic()
        self._carry_out(self._coordination.lost(stage, reason, now))
        self._changed.set()
        delay = self._restarts.lost(stage, now)
        if words is not None and words.user:
            self._give_up(CheckpointError(words.message))
        elif delay is None:
            self._give_up(ClusterError(f"{where} failed again and again before the cluster was ready: {reason}"))
        else:
            self._spawn(self._restart(stage, delay))

    def _hindered(self, stage: int, reason: str) -> None:
        self._cluster.hindered(stage, reason)
        self._changed.set()

    async def _restart(self, stage: int, delay: float) -> None:
        await asyncio.sleep(delay)
        await self._start(stage)

    async def _start(self, stage: int) -> None:
        await self._site.reach(stage)
        session = uuid.uuid4().hex[:12]
        self._cluster.starting(stage, session, time.monotonic())
        try:
            pid = await self._site.start(stage, session)
        except OSError as error:  # no process or descriptor to be had: as if it had died at once
            self._ended(stage, f"cannot be started: {error.strerror or error}")
            return
        self._cluster.started(stage, session, pid)
        self._changed.set()

    async def _watch(self) -> None:
        """Ends workers that went silent, which the supervisor then starts again, and requests whose time is over."""
        limits = self._limits
        last = time.monotonic()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            # after a pause of this process (Ctrl-Z, a sleeping machine) the heartbeats are still waiting to be read
            if now - last < 2 * CHECK_SECONDS:
                late = self._cluster.overdue(now, silence=limits.silence, loading=limits.loading, stall=limits.stall)
                for stage, why in late:
                    self._last_words[stage] = Failed(message=why, user=False)
                    self._site.kill(stage)
                self._carry_out(Effects(self._cluster.relink(now)))
            last = now
            self._carry_out(self._coordination.expire(now))

    async def _sample(self) -> None:
        """The history's clock."""
        while True:
            await asyncio.sleep(SAMPLE_SECONDS)
            self._observer.sample(self.view(), time.monotonic())

    # --- effects ---

    def _carry_out(self, effects: Effects) -> None:
        now = time.monotonic()
        for stage, message in effects.orders:
            session = self._cluster.session(stage)
            if session:
                self._site.send(stage, session, message)
            if isinstance(message, Open):
                self._observer.admitted(message.request, now, message.first)
        for number, item in (*effects.tokens, *effects.errors):
            self._deliver(number, item, now)

    def _deliver(self, number: int, item: Token | StagelineError, now: float) -> None:
        if number in self._streams:
            self._streams[number].put_nowait((item, now))

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
