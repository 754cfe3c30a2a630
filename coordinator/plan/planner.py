"""Which layers go to which machine. Pure: a model's cost and machines in; out a plan, or why there is none."""

from collections.abc import Sequence
from itertools import accumulate

import msgspec

from coordinator.plan.cost import ModelCost
from coordinator.plan.kinds import MOST_SETS, TICKS, Kind, kinds_of, kinds_of_memory
from coordinator.plan.machine import Link, Machine, hop_seconds
from coordinator.plan.plan import TOKEN_BYTES, Demand, Objective, Plan, Stage
from coordinator.plan.split import MAXIMUM, SUM, Hops, Seat, Share, split
from worker.errors import ConfigError


class Impossible(msgspec.Struct, frozen=True):
    """No plan fits. The `best` one leaves the smallest lack on its worst machine; `lacks` is in bytes, by stage."""

    best: Plan
    lacks: tuple[int, ...]


def plan(
    model: ModelCost, machines: Sequence[Machine], demand: Demand, *, objective: Objective, stages: int
) -> Plan | Impossible:
    """The best plan of exactly `stages` of the machines.

    For `throughput` the slowest stage is as fast as possible, and among such plans the sum of stages and hops is least;
    for `latency` that sum alone counts. One machine named several times runs several stages in its one memory.
    The best of all, unless the machines differ in too many ways: see kinds.py for what is joined then.
    Raises ConfigError if there are more stages than layers or machines, or if too many memories differ to tell
    whether there is a plan.
    """
    _check(model, machines, stages)
    shared = len({machine.name for machine in machines}) < len(machines)
    if shared and (lack := need_bytes(model, demand, 0, len(model.layers)) - machines[0].usable) > 0:
        closest = _closest(model, kinds_of_memory(model, machines, demand), demand, objective, stages, shared=True)
        return Impossible(closest, (lack, *[0] * (stages - 1)))
    kinds = kinds_of(model, machines, demand, stages)
    shares = _shares(model, kinds, demand, objective, stages, shared=shared)
    if shares is not None:
        return _plan(model, kinds, shares, demand, objective)
    by_memory = kinds_of_memory(model, machines, demand)
    if any(kind.counts_too_little for kind in kinds):
        shares = _shares(model, by_memory, demand, objective, stages, shared=shared)
        if shares is not None:
            return _plan(model, by_memory, shares, demand, objective)
    closest = _closest(model, by_memory, demand, objective, stages, shared=False)
    lacks = tuple(need_bytes(model, demand, each.first, each.end) - each.machine.usable for each in closest.stages)
    if max(lacks) <= 0:
        return closest
    if any(kind.counts_too_little for kind in by_memory) and _fits_the_largest(closest, by_memory):
        sizes = len({machine.usable for machine in machines})
        raise ConfigError(
            f"{len(machines)} machines with {sizes} different memories are more than {MOST_SETS} sets to choose from, "
            "and with those that differ least taken for equal no plan fits; leave some machines out",
            param="machines",
        )
    return Impossible(closest, lacks)


def equal_stages(model: ModelCost, stages: int) -> tuple[tuple[int, int], ...]:
    """Layers [first, end) of each stage for workers that are all alike: the one that reads most bytes for a token reads
    as few as possible. Raises ConfigError if there are more stages than layers."""
    _check_layers(model, stages)
    reads = [
        sum(round(piece.step_bytes(1, 1)) for piece in model.pieces(index, index + 1))
        for index in range(len(model.layers))
    ]
    cost = [0, *accumulate(reads)]
    best = split([Seat(count=stages, cost=cost, need=cost, room=cost[-1])], stages, MAXIMUM)
    assert best is not None
    return tuple((share.first, share.end) for share in best[1])


def need_bytes(model: ModelCost, demand: Demand, first: int, end: int) -> int:
    """Weights and, for every sequence, state of the stage of layers [first, end)."""
    return sum(
        piece.resident_bytes + demand.sequences * piece.state.bytes(demand.context)
        for piece in model.pieces(first, end)
    )


def _check_layers(model: ModelCost, stages: int) -> None:
    layers = len(model.layers)
    if not 1 <= stages <= layers:
        raise ConfigError(
            f"{stages} stages for {layers} layers: every stage needs at least one; use --stages 1 to {layers}",
            param="stages",
        )


def _check(model: ModelCost, machines: Sequence[Machine], stages: int) -> None:
    _check_layers(model, stages)
    names = {machine.name for machine in machines}
    if stages > len(machines):
        raise ConfigError(
            f"{stages} stages for {len(machines)} machines: name a machine for every stage, or one for all",
            param="stages",
        )
    if 1 < len(names) < len(machines):
        raise ConfigError(f"machines of equal names beside others: {[machine.name for machine in machines]}")


def _shares(
    model: ModelCost, kinds: Sequence[Kind], demand: Demand, objective: Objective, stages: int, *, shared: bool
) -> tuple[Share, ...] | None:
    needs = _needs(model, demand)
    links = _links(kinds)
    seats = [
        Seat(
            count=len(kind.machines),
            cost=[0, *accumulate(kind.seen.costs)],
            need=needs,
            room=needs[-1] if shared else kind.seen.room,
            link=links.index(kind.seen.link),
        )
        for kind in kinds
    ]
    hops = None if shared else _hops(model, kinds, demand)
    best = split(seats, stages, SUM, hops=hops) if objective == "latency" else None
    if objective == "throughput" or any(seat.count > 1 for seat in seats):
        slowest = split(seats, stages, MAXIMUM)
        even = split(seats, stages, SUM, hops=hops, most=slowest[0]) if slowest else None
        # among machines that are alike the sum is the same wherever the cuts are: then the even ones
        best = even if best is None or (even is not None and even[0] == best[0]) else best
    return best[1] if best is not None else None


def _needs(model: ModelCost, demand: Demand) -> list[int]:
    return [0, *accumulate(need_bytes(model, demand, index, index + 1) for index in range(len(model.layers)))]


def _links(kinds: Sequence[Kind]) -> list[Link]:
    return list(dict.fromkeys(kind.seen.link for kind in kinds))


def _hops(model: ModelCost, kinds: Sequence[Kind], demand: Demand) -> Hops:
    """Ticks between machines on these links, in the order of `_links`."""
    machine = kinds[0].machines[0]
    senders = [msgspec.structs.replace(machine, name="sender", link=link) for link in _links(kinds)]
    receivers = [msgspec.structs.replace(sender, name="receiver") for sender in senders]

    def ticks(nbytes: int) -> list[list[int]]:
        return [[round(hop_seconds(a, b, nbytes) * TICKS) for b in receivers] for a in senders]

    return Hops(ticks(model.hidden_bytes(demand.batch)), ticks(TOKEN_BYTES))


def _plan(
    model: ModelCost, kinds: Sequence[Kind], shares: Sequence[Share], demand: Demand, objective: Objective
) -> Plan:
    """The stages in order; each machine of a kind is used once, unless all are the same one."""
    left = [list(kind.machines) for kind in kinds]
    stages = tuple(Stage(machine=left[share.seat].pop(0), first=share.first, end=share.end) for share in shares)
    return Plan(model=model, demand=demand, objective=objective, stages=stages)


def _closest(
    model: ModelCost, kinds: Sequence[Kind], demand: Demand, objective: Objective, stages: int, *, shared: bool
) -> Plan:
    """The split whose worst stage lacks least memory, each kind having its largest one."""
    needs = _needs(model, demand)
    seats = [
        Seat(len(kind.machines), cost=needs, need=needs, room=needs[-1], base=0 if shared else -kind.most_room)
        for kind in kinds
    ]
    best = split(seats, stages, MAXIMUM)
    assert best is not None
    return _plan(model, kinds, best[1], demand, objective)


def _fits_the_largest(plan: Plan, kinds: Sequence[Kind]) -> bool:
    """Whether it would fit if every machine had the memory of its kind's largest: else nothing fits."""
    rooms = {machine.name: kind.most_room for kind in kinds for machine in kind.machines}
    needs = ((stage, need_bytes(plan.model, plan.demand, stage.first, stage.end)) for stage in plan.stages)
    return all(need <= rooms[stage.machine.name] for stage, need in needs)
