"""The split of a cluster on this machine."""

from pathlib import Path

from coordinator.plan.cost import ModelCost
from coordinator.plan.lock import locked_stages, read_lock, write_lock
from coordinator.plan.plan import TYPICAL_CONTEXT, Demand, Plan, Stage
from coordinator.plan.planner import equal_stages
from coordinator.plan.this_machine import this_machine

STAGES = 2  # unless somebody says


def local_stages(cost: ModelCost, stages: int | None, lock: Path | None) -> tuple[tuple[int, int], ...]:
    """Layers [first, end) of each stage: as even as can be, or as in `lock`, which is written if it is not there.

    Raises ConfigError if there are more stages than layers, or if the lock does not fit.
    """
    if lock is None:
        return equal_stages(cost, stages or STAGES)
    demand = Demand(context=min(TYPICAL_CONTEXT, cost.spec.context_length), sequences=1)
    if lock.exists():
        machines = this_machine(locked_stages(lock))
        found = read_lock(lock, cost, machines, demand, stages=stages, objective=None)
        return tuple((stage.first, stage.end) for stage in found.stages)
    layers = equal_stages(cost, stages or STAGES)
    machines = this_machine(len(layers))
    split = tuple(Stage(machine, first, end) for machine, (first, end) in zip(machines, layers, strict=True))
    write_lock(lock, Plan(model=cost, demand=demand, objective="throughput", stages=split))
    return layers
