"""One host as the coordinator knows it: its agent's life and the workers there."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from coordinator.fleet.hostfile import Host
from worker.agent.messages import Hail, Surveyed


@dataclass(slots=True)
class Member:
    """`session` is "" while no agent is there; `seen` is when it last said anything. `asked`: it was sent a survey.
    `workers` are those it runs, by stage, `starting` those it was asked for. `present` is set while it takes orders.
    `refused` connections are those of this agent's session, `refused_before` those of earlier ones, by reason.
    """

    host: Host
    session: str = ""
    hail: Hail | None = None
    asked: bool = False
    surveyed: Surveyed | None = None
    seen: float = 0.0
    refused: Counter[str] = field(default_factory=Counter[str])
    refused_before: Counter[str] = field(default_factory=Counter[str])
    clock_skew: float = 0.0
    workers: dict[int, str] = field(default_factory=dict[int, str])
    starting: dict[str, asyncio.Future[int]] = field(default_factory=dict[str, "asyncio.Future[int]"])
    present: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def hailed(self, session: str, message: Hail, clock: float) -> None:
        """A new agent's first word, at `clock` seconds since 1970 here."""
        self.session, self.hail, self.asked, self.surveyed = session, message, False, None
        self.clock_skew = message.clock - clock

    def lost(self, reason: str) -> list[int]:
        """The agent is gone; returns the stages that go with it."""
        stages = list(self.workers)
        self.refused_before += self.refused
        self.refused = Counter()
        self.workers.clear()
        for future in self.starting.values():
            if not future.done():
                future.set_exception(OSError(f"host {self.host.name}: {reason}"))
        self.starting.clear()
        self.session, self.hail, self.surveyed = "", None, None
        self.present.clear()
        self.idle.set()
        return stages
