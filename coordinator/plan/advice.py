"""Why there is no plan, with the arithmetic, and what would make one possible. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Machine
from coordinator.plan.plan import Demand, Plan
from coordinator.plan.planner import Impossible, plan
from coordinator.size import size

MOST_MACHINES = 32
LEAST_CONTEXT = 1024

Alternatives = Iterable[tuple[str, Callable[[], ModelCost]]]  # what to pass to --quantize, and the model then


def advice(impossible: Impossible, machines: Sequence[Machine], alternatives: Alternatives) -> str:
    """The arithmetic, the stages that lack memory, then what helps."""
    best = impossible.best
    lines = [reason(impossible)]
    if ways := list(_ways(best, machines, alternatives)):
        lines.append("What fits: " + "; or ".join(ways) + ".")
    if any(_is_mac(stage.machine) for stage in best.stages):
        lines.append(
            "A Mac lets its GPU have more if told so (sysctl iogpu.wired_limit_mb); then say `usable` in a file for "
            "--machines."
        )
    return " ".join(lines)


def reason(impossible: Impossible) -> str:
    """What is needed, what there is, and which stage lacks how much."""
    return " ".join([_total(impossible.best), *_lacks(impossible)])


def _total(best: Plan) -> str:
    demand, stages = best.demand, best.stages
    weights = sum(map(best.resident_bytes, stages))
    state = sum(map(best.state_bytes, stages))
    usable = {stage.machine.name: stage.machine.usable for stage in stages}
    return (
        f"{best.model.name} ({best.model.precision}) does not fit on {_count(len(usable), 'machine')}: weights of "
        f"{size(weights)} and {size(state)} of state for {_sequences(demand)} are {size(weights + state)}, usable are "
        f"{' + '.join(map(size, usable.values()))}."
    )


def _lacks(impossible: Impossible) -> Iterator[str]:
    best = impossible.best
    for number, (stage, lack) in enumerate(zip(best.stages, impossible.lacks, strict=True)):
        if lack <= 0:
            continue
        machine = stage.machine
        if best.shares_machine:
            yield f"{machine.name} lacks {size(lack)} for all stages together."
            return
        yield (
            f"In the best split stage {number} (layers {stage.first} to {stage.end - 1} on {machine.name}) needs "
            f"{size(best.resident_bytes(stage))} + {size(best.state_bytes(stage))}, {size(machine.usable)} of "
            f"{size(machine.memory)} are usable: it lacks {size(lack)}."
        )


def _ways(best: Plan, machines: Sequence[Machine], alternatives: Alternatives) -> Iterator[str]:
    for option, make in alternatives:
        if _fits(make(), machines, best.demand, len(best.stages)):
            yield f"fewer bits, --quantize {option}"
            break
    context = best.demand.context // 2
    while context >= LEAST_CONTEXT:
        demand = msgspec.structs.replace(best.demand, context=context)
        if _fits(best.model, machines, demand, len(best.stages)):
            yield f"a shorter context, --context {context}"
            break
        context //= 2
    alike = len({msgspec.structs.replace(machine, name="") for machine in machines}) == 1
    if alike and not best.shares_machine:
        for count in range(len(machines) + 1, min(MOST_MACHINES, len(best.model.layers)) + 1):
            more = [msgspec.structs.replace(machines[0], name=f"#{number}") for number in range(count)]
            if _fits(best.model, more, best.demand, count):
                yield f"{count} such machines"
                break


def _fits(model: ModelCost, machines: Sequence[Machine], demand: Demand, stages: int) -> bool:
    return isinstance(plan(model, machines, demand, objective="throughput", stages=stages), Plan)


def _is_mac(machine: Machine) -> bool:
    return machine.chip.startswith("M") and machine.chip[1:2].isdecimal()


def _sequences(demand: Demand) -> str:
    return f"{_count(demand.sequences, 'sequence')} of {demand.context} positions"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
