"""What a plan is asked for, and the best plan for that. Pure."""

from collections.abc import Sequence

import msgspec

from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Machine
from coordinator.plan.plan import Demand, Objective, Plan
from coordinator.plan.planner import Impossible, plan


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Sequences of `context` positions, `batch` of them in a step. None is left open: `sequences` are then a batch a
    stage, for latency one batch; `stages` for throughput as many as can be, for latency as few as are best."""

    context: int
    batch: int = 1
    sequences: int | None = None
    stages: int | None = None
    objective: Objective = "throughput"

    def demand(self, stages: int) -> Demand:
        """What so many stages have to hold."""
        together = self.batch if self.objective == "latency" else self.batch * stages
        return Demand(context=self.context, sequences=self.sequences or together, batch=self.batch)

    def most(self, model: ModelCost, machines: Sequence[Machine]) -> int:
        """The stages that were asked for, else one a machine as far as there are layers."""
        return self.stages or min(len(machines), len(model.layers))

    def on(self, model: ModelCost, machines: Sequence[Machine], stages: int) -> Plan | Impossible:
        """The best plan of exactly so many stages. Raises ConfigError as `planner.plan`."""
        return plan(model, machines, self.demand(stages), objective=self.objective, stages=stages)

    def best(self, model: ModelCost, machines: Sequence[Machine]) -> Plan | Impossible:
        """The best plan: fewer stages than machines where not all hold a layer, or where fewer are better."""
        most = self.most(model, machines)
        everywhere = self.on(model, machines, most)
        if self.stages is not None or (self.objective == "throughput" and isinstance(everywhere, Plan)):
            return everywhere
        fewer = (self.on(model, machines, count) for count in range(1, most))
        plans = [found for found in (*fewer, everywhere) if isinstance(found, Plan)]
        seconds = Plan.round_seconds if self.objective == "latency" else Plan.cycle_seconds
        return min(plans, key=seconds, default=everywhere)

    def fits(self, model: ModelCost, machines: Sequence[Machine]) -> bool:
        """Whether `best` is a plan."""
        most = self.most(model, machines)
        counts = range(most, most - 1 if self.stages else 0, -1)
        return any(isinstance(self.on(model, machines, count), Plan) for count in counts)
