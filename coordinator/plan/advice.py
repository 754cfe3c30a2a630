"""Why there is no plan, with the arithmetic, and what would make one possible. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from coordinator.plan.asked import Asked
from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Machine
from coordinator.plan.plan import Demand, Plan
from coordinator.plan.planner import Impossible
from coordinator.size import size

MOST_MACHINES = 32
LEAST_CONTEXT = 1024

Alternatives = Iterable[tuple[str, Callable[[], ModelCost]]]  # what to pass to --quantize, and the model then


def advice(
    impossible: Impossible, machines: Sequence[Machine], alternatives: Alternatives, asked: Asked | None = None
) -> str:
    """The arithmetic, the stages that lack memory, then what helps: each way alone, everything else `asked` as it was.

    Without `asked` it was exactly this demand and this number of stages.
    """
    best = impossible.best
    lines = [reason(impossible)]
    if ways := list(_ways(best.model, machines, asked or _as_it_is(best), alternatives)):
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


def _as_it_is(best: Plan) -> Asked:
    demand = best.demand
    return Asked(context=demand.context, batch=demand.batch, sequences=demand.sequences, stages=len(best.stages))


def _ways(model: ModelCost, machines: Sequence[Machine], asked: Asked, alternatives: Alternatives) -> Iterator[str]:
    for option, make in alternatives:
        if asked.fits(make(), machines):
            yield f"fewer bits, --quantize {option}"
            break
    context = asked.context // 2
    while context >= LEAST_CONTEXT:
        if msgspec.structs.replace(asked, context=context).fits(model, machines):
            yield f"a shorter context, --context {context}"
            break
        context //= 2
    others = list(_other_stages(model, machines, asked, asked.stages)) if asked.stages else []
    yield from others or _more_machines(model, machines, asked)


def _other_stages(model: ModelCost, machines: Sequence[Machine], asked: Asked, stages: int) -> Iterator[str]:
    """More stages use more machines; fewer have fewer sequences, unless their number was given."""
    shared = len({machine.name for machine in machines}) < len(machines)
    more = range(stages + 1, min(len(machines), len(model.layers)) + 1)
    for count in (*more, *range(stages - 1, 0, -1)):
        on = machines[:count] if shared else machines
        if isinstance(asked.on(model, on, count), Plan):
            yield f"{_count(count, 'stage')}, --stages {count}"
            break


def _more_machines(model: ModelCost, machines: Sequence[Machine], asked: Asked) -> Iterator[str]:
    """More of machines that are all alike, a stage on each."""
    if len({msgspec.structs.replace(machine, name="") for machine in machines}) > 1:
        return
    named = len({machine.name for machine in machines})
    for count in range(named + 1, min(MOST_MACHINES, len(model.layers)) + 1):
        more = [msgspec.structs.replace(machines[0], name=f"#{number}") for number in range(count)]
        # if fewer stages than machines were enough, fewer machines were
        if isinstance(asked.on(model, more, count), Plan):
            yield f"{count} such machines" + (f" with --stages {count}" if asked.stages else "")
            break


def _is_mac(machine: Machine) -> bool:
    return machine.chip.startswith("M") and machine.chip[1:2].isdecimal()


def _sequences(demand: Demand) -> str:
    return f"{_count(demand.sequences, 'sequence')} of {demand.context} positions"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("s" if number != 1 else "")
