"""One session with the coordinator: from the first hail until the coordinator is lost, refuses, or sends the agent
away."""

import asyncio
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Sequence
from enum import Enum, auto
from typing import NamedTuple

import zmq

from worker.agent.echo import Echo
from worker.agent.link import Event, Link
from worker.agent.messages import Beat, Device, End, Hail, Idle, Kill, Leave, Start, Survey, Surveyed
from worker.agent.presence import TICK_SECONDS, Due, Presence
from worker.agent.runtime import Runtime
from worker.agent.settings import AgentSettings
from worker.agent.survey import survey
from worker.agent.workers import Workers
from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.protocol import PROTOCOL_VERSION, Message
from worker.versions import versions

log = logging.getLogger("stageline.agent")

PEERS_SECONDS = 1.0  # less than a handshake may take
HUNG_UP_TIMES = 3  # before it means anything: a peer that is just starting hangs up too


class Outcome(Enum):
    """How a session ended."""

    LEAVE = auto()  # the coordinator sends the agent away
    LOST = auto()  # the coordinator is gone
    REFUSED = auto()  # the handshake fails


class Ending(NamedTuple):
    """How and why; of a session that was refused, by what event."""

    outcome: Outcome
    reason: str = ""
    event: Event | None = None


class Session:
    """Hails at once; `ended` is done when it is over. `close` ends the workers, in order, and the sockets.

    `address` is this host's. Belongs to the running event loop. Raises ConfigError if this host cannot listen there
    or a key is missing, zmq.ZMQError if the system gives no more sockets.
    """

    def __init__(self, settings: AgentSettings, *, address: str, devices: Sequence[Device], runtime: Runtime) -> None:
        self._settings = settings
        self._address = address
        self._devices = tuple(devices)
        self._runtime = runtime
        self._presence = Presence(time.monotonic())
        self._beats = 0
        self._hung_up = 0
        self._peers: frozenset[str] = frozenset()
        self._told = threading.Event()  # who the peers are
        self._orders: asyncio.Queue[Start | Kill | End] = asyncio.Queue()
        self._survey: Survey | None = None
        self._answered: Surveyed | None = None
        self._surveying: asyncio.Task[None] | None = None
        self.ended: asyncio.Future[Ending] = asyncio.get_running_loop().create_future()

        keys = ["--keys", str(settings.keys)] if settings.keys else ["--insecure"]
        self._workers = Workers(
            endpoint=settings.coordinator,
            runtime=runtime,
            arguments=("--host", settings.name, "--address", address, *keys),
            say=self._say,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._gate: Gate | None = None
        try:
            self._gate = Gate(self._context, Keyring(settings.keys)) if settings.keys else None
            self._echo = Echo(self._context, address, gate=self._gate, allowed=self._is_peer)
            self._link = Link(
                self._context,
                settings.coordinator,
                f"agent-{settings.name}/{uuid.uuid4().hex[:12]}",
                gate=self._gate,
                heard=self._heard,
                noticed=self._noticed,
            )
        except BaseException:
            self._forget()
            raise
        self._tasks = [asyncio.create_task(self._tick()), asyncio.create_task(self._obey())]
        for task in self._tasks:
            task.add_done_callback(self._stopped)

    @property
    def is_up(self) -> bool:
        """Whether there is a connection to the coordinator that is still of use."""
        return self._presence.connected and not self.ended.done()

    @property
    def surveyed(self) -> bool:
        """Whether the coordinator has ever answered."""
        return self._presence.surveyed

    async def close(self) -> None:
        """Ends everything that the session has begun; what the coordinator was told last has a moment to get there."""
        tasks = (*self._tasks, *([self._surveying] if self._surveying else []))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await self._workers.end()
        finally:
            self._link.close(lost=self.ended.done() and self.ended.result().outcome is not Outcome.LEAVE)
            self._forget()

    def _forget(self) -> None:
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    # --- events ---

    def _is_peer(self, key: str) -> bool:
        """Asked by the gate's thread. A peer may have been told of this host before this host was told of it."""
        self._told.wait(PEERS_SECONDS)
        return key in self._peers

    def _heard(self, message: Message) -> None:
        now = time.monotonic()
        self._presence.heard(now)
        match message:
            case Survey():
                if not self._presence.surveyed:
                    log.info("the coordinator is there: %d other hosts", len(message.peers))
                self._presence.heard(now, message.silence)
                self._peers = frozenset(peer.key for peer in message.peers)
                self._told.set()
                if message != self._survey:  # else the answer is on its way
                    self._begin_survey(message)
            case Start() | Kill() | End():
                self._orders.put_nowait(message)
            case Leave(reason=reason):
                self._end(Ending(Outcome.LEAVE, reason))
            case _:  # a beat that came back
                pass

    def _noticed(self, event: Event) -> None:
        if self.ended.done():  # a connection that is back already is for the next session
            return
        if event is Event.UP:
            self._presence.connected = True
            if not self._presence.surveyed:
                self._hail()
            else:
                self._say_again()
        elif event is Event.DOWN:
            # once surveyed, the beats tell whether it comes back in time. Until then a new name is better: under the
            # old one nobody is heard as long as the coordinator holds the dead connection
            if self._presence.connected and not self._presence.surveyed:
                self._end(Ending(Outcome.LOST, "the connection was lost"))
            self._presence.connected = False
        else:
            self._hung_up += event is Event.HUNG_UP
            if event is not Event.HUNG_UP or self._hung_up >= HUNG_UP_TIMES:  # the next session reads the keys again
                self._end(Ending(Outcome.REFUSED, event=event))

    def _stopped(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal failure", exc_info=error)
            self._end(Ending(Outcome.LOST, f"internal failure: {error!r}"))

    def _end(self, ending: Ending) -> None:
        if not self.ended.done():
            self.ended.set_result(ending)

    # --- what goes on ---

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)  # the first hail is the connection's
            match self._presence.due(time.monotonic()):
                case Due.HAIL:
                    self._hail()
                case Due.BEAT:
                    self._beats += 1
                    self._say(Beat(number=self._beats, refused=dict(self._gate.counts) if self._gate else {}))
                case Due.LOST:
                    silence = self._presence.silence
                    self._end(Ending(Outcome.LOST, f"nothing was heard of the coordinator for {silence:g} s"))
                case Due.NOTHING:
                    pass

    async def _obey(self) -> None:
        """One order after the other: ending takes a while, and a start after it must not be ended too."""
        while True:
            match await self._orders.get():
                case Start() as order:
                    await self._workers.start(order)
                case Kill() as order:
                    self._workers.kill(order)
                case End(hearing=hearing):
                    await self._workers.end(hearing)
                    self._say(Idle())

    def _begin_survey(self, order: Survey) -> None:
        self._survey = order
        if self._surveying is not None:
            self._surveying.cancel()
        self._surveying = asyncio.create_task(self._answer(order))
        self._surveying.add_done_callback(self._stopped)

    async def _answer(self, order: Survey) -> None:
        answer = await survey(
            order,
            context=self._context,
            gate=self._gate,
            devices=self._devices,
            keys=self._settings.keys,
            runtime=self._runtime,
        )
        self._answered = answer
        if answer.problem:
            log.error("%s", answer.problem)
        for trip in answer.round_trips:
            if trip.problem:
                log.warning("round trips to %s: %s", trip.peer, trip.problem)
        self._say(answer)

    def _say_again(self) -> None:
        """The connection is back; what was on its way when it was lost may not have arrived."""
        if self._answered is not None:
            self._say(self._answered)
        self._workers.say_again()

    def _hail(self) -> None:
        self._say(
            Hail(
                protocol=PROTOCOL_VERSION,
                name=self._settings.name,
                pid=os.getpid(),
                address=self._address,
                echo=self._echo.endpoint,
                versions=versions(),
                platform=platform.platform(),
                devices=self._devices,
                clock=time.time(),
            )
        )

    def _say(self, message: Message) -> None:
        self._link.send(message)
