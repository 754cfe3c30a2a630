"""An agent's life: session after session, until it is told to leave."""

import asyncio
import logging
from collections.abc import Callable
from typing import TypeVar

import zmq

from worker.agent.address import own_address
from worker.agent.background import in_background
from worker.agent.lock import Lock
from worker.agent.refusal import refusal, unreachable
from worker.agent.runtime import Runtime
from worker.agent.session import Outcome, Session
from worker.agent.settings import AgentSettings
from worker.errors import ClusterError, ConfigError
from worker.hardware import Found, look

log = logging.getLogger("stageline.agent")

PATIENCE_SECONDS = 20.0  # without a connection; then an agent that need not stay gives up
AGAIN_SECONDS = 1.0  # between two sessions
LOCK_SECONDS = 0.2  # between two tries to be the only agent
LOOK_SECONDS = 2.0  # without a connection; then the reason is looked for
CARDS_SECONDS = 60.0  # after nvidia-smi has failed; then it may try again

Result = TypeVar("Result")


class Agent:
    """Serves the coordinator until `leave` is done. Use `run`."""

    def __init__(self, settings: AgentSettings, leave: "asyncio.Future[str]") -> None:
        self._settings = settings
        self._leave = leave
        self._said = ""  # the last trouble
        self._up = 0.0  # when there was a connection last
        self._found: Found | None = None  # the devices
        self._look_at = 0.0  # when to look for them again, if cards may be missing

    async def run(self) -> None:
        """Returns when the agent has left, with nothing left behind.

        Raises ClusterError if there is another agent already, or if it need not stay and cannot reach the coordinator,
        and ConfigError if it never will, or if there is no place for its lock.
        """
        loop = asyncio.get_running_loop()
        lock = Lock(self._settings.name, self._settings.coordinator)
        deadline = loop.time() + PATIENCE_SECONDS
        while not lock.take():  # one that is about to leave ends its workers first
            if loop.time() > deadline:
                raise lock.refusal()
            await asyncio.wait((self._leave,), timeout=LOCK_SECONDS)
            if self._leave.done():
                return
        try:
            await self._serve()
        finally:
            lock.release()

    async def _serve(self) -> None:
        log.info("%s looks for the coordinator at %s", self._settings.name, self._settings.coordinator)
        self._up = asyncio.get_running_loop().time()
        while not self._leave.done():
            try:
                runtime = Runtime()
            except ClusterError as error:
                self._trouble(error.message, asyncio.get_running_loop().time(), for_good=True)
            else:
                try:
                    await self._session(runtime)
                finally:
                    runtime.remove()
            if not self._leave.done():
                await asyncio.wait((self._leave,), timeout=AGAIN_SECONDS)
        log.info("leaving: %s", self._leave.result())

    async def _session(self, runtime: Runtime) -> None:
        loop = asyncio.get_running_loop()
        found = await self._devices()
        endpoint = self._settings.endpoint
        try:
            address = self._settings.address or await self._apart(lambda: own_address(endpoint))
        except OSError as error:
            reason = f"no way to the coordinator at {self._settings.coordinator}: {error.strerror}; check the network"
            self._trouble(reason, loop.time())
            return
        if found is None or address is None:
            return
        try:
            session = Session(self._settings, address=address, devices=found.devices, runtime=runtime)
        except ConfigError as error:
            self._trouble(error.message, loop.time(), for_good=True)
            return
        except zmq.ZMQError as error:
            self._trouble(f"no sockets can be made: {error.strerror}; end other programs here", loop.time())
            return
        began = loop.time()
        try:
            while not session.ended.done() and not self._leave.done():
                await asyncio.wait(
                    (session.ended, self._leave), timeout=AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
                now = loop.time()
                if session.is_up:
                    self._up, self._said = now, ""
                elif found.problem and now > self._look_at and not session.surveyed:
                    break  # a coordinator that comes now shall not hear of a host without cards
                elif not session.ended.done() and now - began > LOOK_SECONDS and not session.surveyed:
                    self._trouble(await unreachable(self._settings), now)
        finally:
            await session.close()
        if not session.ended.done():
            return
        outcome, reason, event = session.ended.result()
        if event is not None:
            reason, certain = await refusal(event, self._settings)
            self._trouble(reason, loop.time(), for_good=certain)
        elif outcome is Outcome.LOST or self._settings.stay:
            if reason != self._said:  # and not at every try
                log.warning("%s; hailing anew", reason)
                self._said = reason
            self._look_at = loop.time()
        elif not self._leave.done():
            self._leave.set_result(reason)

    async def _devices(self) -> Found | None:
        """What is known of the devices, looked for again if cards may be missing; None if the agent has to leave."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        if self._found is None or (self._found.problem and began >= self._look_at):
            self._found = await self._apart(look)
            now = loop.time()
            self._look_at = now + CARDS_SECONDS
            self._up += now - began  # nothing was dialled meanwhile
            if self._found is not None and self._found.problem:
                log.warning("%s; a later session tries again", self._found.problem)
        return self._found

    async def _apart(self, work: Callable[[], Result]) -> Result | None:
        """What this blocking `work` returns or raises; None if the agent has to leave before."""
        doing = asyncio.ensure_future(in_background(work))
        await asyncio.wait((doing, self._leave), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        doing.cancel()
        return None

    def _trouble(self, reason: str, now: float, *, for_good: bool = False) -> None:
        """There is no connection: say why, once, and give up in the end, or at once if waiting cannot help."""
        if not self._settings.stay and for_good:
            raise ConfigError(reason)
        if not self._settings.stay and now - self._up > PATIENCE_SECONDS:
            raise ClusterError(f"{reason} (tried for {PATIENCE_SECONDS:g} s)")
        if reason != self._said:
            log.error("%s", reason)
            self._said = reason
