"""An agent's life: session after session, until it is told to leave."""

import asyncio
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import zmq

from worker.agent.address import own_address
from worker.agent.background import in_background
from worker.agent.lock import Lock
from worker.agent.messages import Device
from worker.agent.refusal import unreachable
from worker.agent.session import Outcome, Session
from worker.agent.settings import AgentSettings
from worker.errors import ClusterError, ConfigError
from worker.hardware import devices

log = logging.getLogger("stageline.agent")

PATIENCE_SECONDS = 20.0  # without a connection; then an agent that need not stay gives up
AGAIN_SECONDS = 1.0  # between two sessions
LOCK_SECONDS = 0.2  # between two tries to be the only agent
LOOK_SECONDS = 2.0  # without a connection; then the reason is looked for


class Agent:
    """Serves the coordinator until `leave` is done. Use `run`."""

    def __init__(self, settings: AgentSettings, leave: "asyncio.Future[str]") -> None:
        self._settings = settings
        self._leave = leave
        self._said = ""  # the last trouble
        self._up = 0.0  # when there was a connection last

    async def run(self) -> None:
        """Returns when the agent has left, with nothing left behind.

        Raises ClusterError if there is another agent already, or if it need not stay and cannot reach the coordinator,
        and ConfigError if it never will.
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
        # /tmp and not the user's temporary directory, which is too long for a socket path on macOS
        runtime = Path(tempfile.mkdtemp(prefix=f"stageline-{os.getuid()}-", dir="/tmp"))
        try:
            log.info("%s looks for the coordinator at %s", self._settings.name, self._settings.coordinator)
            found = asyncio.ensure_future(in_background(devices))
            await asyncio.wait((found, self._leave), return_when=asyncio.FIRST_COMPLETED)
            self._up = asyncio.get_running_loop().time()
            while not self._leave.done():
                await self._session(found.result(), runtime)
                if not self._leave.done():
                    await asyncio.wait((self._leave,), timeout=AGAIN_SECONDS)
            log.info("leaving: %s", self._leave.result())
        finally:
            shutil.rmtree(runtime, ignore_errors=True)

    async def _session(self, found: Sequence[Device], runtime: Path) -> None:
        loop = asyncio.get_running_loop()
        try:
            endpoint = self._settings.endpoint
            address = self._settings.address or await in_background(lambda: own_address(endpoint))
            session = Session(self._settings, address=address, devices=found, runtime=runtime)
        except zmq.ZMQError as error:
            own = self._settings.address or "its own address"
            fix = "correct its `ips` in the hostfile, or --address"
            self._trouble(f"this host cannot listen at {own}: {error.strerror}: {fix}", loop.time(), for_good=True)
            return
        except OSError as error:
            reason = f"no way to the coordinator at {self._settings.coordinator}: {error.strerror}; check the network"
            self._trouble(reason, loop.time())
            return
        except ConfigError as error:  # its keys were taken away
            self._trouble(error.message, loop.time())
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
                elif not session.ended.done() and now - began > LOOK_SECONDS and not session.surveyed:
                    self._trouble(await unreachable(self._settings), now)
        finally:
            await session.close()
        if not session.ended.done():
            return
        outcome, reason = session.ended.result()
        if outcome in (Outcome.REFUSED, Outcome.HUNG_UP):
            # who shows a key and is hung up on expected another one of the coordinator
            certain = outcome is Outcome.REFUSED or self._settings.keys is not None
            self._trouble(reason, loop.time(), for_good=certain)
        elif outcome is Outcome.LOST or self._settings.stay:
            log.warning("%s; hailing anew", reason)
        elif not self._leave.done():
            self._leave.set_result(reason)

    def _trouble(self, reason: str, now: float, *, for_good: bool = False) -> None:
        """There is no connection: say why, once, and give up in the end, or at once if waiting cannot help."""
        if not self._settings.stay and for_good:
            raise ConfigError(reason)
        if not self._settings.stay and now - self._up > PATIENCE_SECONDS:
            raise ClusterError(f"{reason} (tried for {PATIENCE_SECONDS:g} s)")
        if reason != self._said:
            log.error("%s", reason)
            self._said = reason
