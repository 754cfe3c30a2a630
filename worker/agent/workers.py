"""The workers of this host."""

import logging
from collections.abc import Callable, Collection, Sequence

from worker.agent.messages import Ended, Kill, Start, Started
from worker.agent.runtime import Runtime
from worker.errors import ClusterError
from worker.hardware import card_environment
from worker.protocol import Message
from worker.supervisor import Supervisor

log = logging.getLogger("stageline.agent")


class Workers:
    """Starts and ends them as the coordinator at `endpoint` says, which `say` tells what became of that."""

    def __init__(
        self, *, endpoint: str, runtime: Runtime, arguments: Sequence[str], say: Callable[[Message], None]
    ) -> None:
        self._say = say
        self._runtime = runtime
        self._sessions: dict[int, str] = {}
        self._told: dict[str, Started | Ended] = {}  # the last word about each worker that still matters, by session
        self._supervisor = Supervisor(endpoint=endpoint, runtime=runtime.path, arguments=arguments, ended=self._ended)

    async def start(self, order: Start) -> None:
        """Start one. A stage's worker that has not ended yet keeps its place."""
        stage, session = order.stage, order.session
        if (running := self._sessions.get(stage)) is not None:
            problem = f"stage {stage}'s worker {running} has not ended yet"
            self._tell(Started(stage=stage, session=session, pid=0, problem=problem))
            return
        self._sessions[stage] = session
        try:
            self._runtime.renew()
            pid = await self._supervisor.start(
                stage, session, stages=order.stages, environment=card_environment(order.card)
            )
        except (OSError, ClusterError) as error:
            del self._sessions[stage]
            problem = error.message if isinstance(error, ClusterError) else error.strerror or str(error)
            self._tell(Started(stage=stage, session=session, pid=0, problem=problem))
            return
        log.info("stage %d is started, pid %d", stage, pid)
        self._tell(Started(stage=stage, session=session, pid=pid))

    def kill(self, order: Kill) -> None:
        """End this very worker, if it has not ended."""
        if self._sessions.get(order.stage) == order.session:
            self._supervisor.kill(order.stage)

    async def end(self, hearing: Collection[int] = ()) -> None:
        """End all in order; see `Supervisor.stop`. Those that are `hearing` were asked by the coordinator."""
        await self._supervisor.stop(lambda: None, hearing=hearing)

    def _ended(self, stage: int, reason: str) -> None:
        log.info("stage %d: %s", stage, reason)
        self._tell(Ended(stage=stage, session=self._sessions.pop(stage), reason=reason))

    def say_again(self) -> None:
        """Tell what became of every worker: that may be lost when the coordinator was away for a moment."""
        for message in self._told.values():
            self._say(message)

    def _tell(self, message: Started | Ended) -> None:
        if isinstance(message, Started):  # whoever orders a start knows what became of the stage's earlier workers
            running = self._sessions.get(message.stage)
            self._told = {
                session: word
                for session, word in self._told.items()
                if word.stage != message.stage or session == running
            }
        self._told[message.session] = message
        self._say(message)
