"""Workers as children of this process, reached over ipc."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from coordinator.control import Control
from coordinator.site import Ended, Hindered, Received
from worker.agent.background import in_background
from worker.hardware import card_environment, stage_cards
from worker.protocol import Message
from worker.supervisor import Supervisor


class LocalSite:
    """The site of a cluster on one machine. Belongs to the running event loop."""

    def __init__(self, stages: int) -> None:
        self._received: Received = _unheard
        self._ended: Ended = _unheard
        # /tmp and not the user's temporary directory, which is too long for a socket path on macOS
        self._runtime = Path(tempfile.mkdtemp(prefix=f"stageline-{os.getuid()}-", dir="/tmp"))
        self._control = Control(receive=self._hear)
        self._supervisor = Supervisor(
            stages=stages,
            endpoint=self._control.bind(f"ipc://{self._runtime}/control"),
            runtime=self._runtime,
            ended=self._lost,
        )
        self._cards = asyncio.create_task(in_background(partial(stage_cards, stages)))

    def attach(self, received: Received, ended: Ended, hindered: Hindered) -> None:
        """See `Site`, as for the others. Nothing hinders this machine."""
        self._received, self._ended = received, ended

    async def reach(self, stage: int) -> None:
        """This machine is there."""

    async def start(self, stage: int, session: str) -> int:
        """A child process, with a card of its own if there are as many NVIDIA cards as stages."""
        cards = await asyncio.shield(self._cards)  # one start that is given up does not end the others
        environment = card_environment(cards[stage] if cards else None)
        return await self._supervisor.start(stage, session, environment=environment)

    def kill(self, stage: int) -> None:
        """SIGKILL."""
        self._supervisor.kill(stage)

    @property
    def refused(self) -> Mapping[str, int]:
        """Nobody comes near."""
        return {}

    def send(self, stage: int, session: str, message: Message) -> None:
        """Over ipc."""
        self._control.send(stage, session, message)

    async def stop(self, ask: Callable[[], None], *, hearing: Collection[int]) -> None:
        """In order."""
        await self._supervisor.stop(ask, hearing=hearing)

    def _hear(self, stage: int, session: str, message: Message) -> None:
        self._received(stage, session, message)

    def _lost(self, stage: int, reason: str) -> None:
        self._ended(stage, reason)

    def close(self) -> None:
        """Removes the runtime directory."""
        self._cards.cancel()
        self._control.close()
        shutil.rmtree(self._runtime, ignore_errors=True)


def _unheard(*_: object) -> None:
    """Nobody is attached yet."""
