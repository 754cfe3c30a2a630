"""What users will see of a plan: the plan's own times as the simulation's clockwork. Pure."""

from coordinator.load.plan import Planned
from coordinator.load.report import Report
from coordinator.plan.plan import Plan
from coordinator.plan.simulation import simulate


class PlanClockwork:
    """A plan's predicted times."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._latency = [hop - plan.transfer(index, 0) for index, hop in enumerate(plan.hops(0))]

    @property
    def stages(self) -> int:
        """Number of stages."""
        return len(self._plan.stages)

    def capacity(self) -> int:
        """All stages at once, unless they share a machine."""
        return self._plan.stages[0].machine.stages if self._plan.shares_machine else self.stages

    def decode(self, stage: int, batch: int, positions: int) -> float:
        """A decode step."""
        return self._plan.decode_seconds(self._plan.stages[stage], batch, positions)

    def prefill(self, stage: int, rows: int, positions: int, sampled: int) -> float:
        """A piece of a prompt."""
        return self._plan.prefill_seconds(self._plan.stages[stage], rows, positions, sampled)

    def hop(self, stage: int, rows: int) -> tuple[float, float]:
        """Occupation and latency of the link after the stage."""
        return self._plan.transfer(stage, rows), self._latency[stage]


def forecast(plan: Plan, *, users: int, prompt_tokens: int, answer_tokens: int, chunk: int, pause: float) -> Report:
    """So many users who all ask at once, each one request of these lengths."""
    load = [Planned(0.0, prompt_tokens, answer_tokens, seed) for seed in range(users)]
    return simulate(PlanClockwork(plan), load, chunk=chunk, pause=pause, max_running=users)
