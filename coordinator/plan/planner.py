"""Which layers go to which machine. Pure: a model's cost and machines in; out a plan, or why there is none."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import msgspec

from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Machine, hop_seconds
from coordinator.plan.plan import TOKEN_BYTES, Demand, Plan, Stage
from coordinator.plan.split import MAXIMUM, MOST_WAYS, SUM, Hops, Seat, Share, split, ways_of
from worker.errors import ConfigError

Objective = Literal["throughput", "latency"]

TICKS = 10**12  # a second in integer costs: exact sums, so that equal plans compare equal


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
    Raises ConfigError if there are more stages than layers or machines, or too many different machines.
    """
    _check(model, machines, stages)
    groups = _grouped(machines)
    shared = len({machine.name for machine in machines}) < len(machines)
    seats = [_seat(model, group, demand, links=_links(groups)) for group in groups]
    if ways_of(seats) > MOST_WAYS:
        raise ConfigError(
            f"{len(machines)} machines of {len(groups)} kinds are {ways_of(seats)} sets to choose from, the limit is "
            f"{MOST_WAYS}; leave some out, or give machines that hardly differ equal figures",
            param="machines",
        )
    if shared and seats[0].need[-1] > seats[0].room:
        return _impossible(model, groups, seats, demand, objective, stages, shared=True)
    hops = None if shared else _hops(model, groups, demand)
    best = split(seats, stages, SUM, hops=hops) if objective == "latency" else None
    if objective == "throughput" or len(groups) < len(machines):
        slowest = split(seats, stages, MAXIMUM)
        even = split(seats, stages, SUM, hops=hops, most=slowest[0]) if slowest else None
        # among machines that are alike the sum is the same wherever the cuts are: then the even ones
        best = even if best is None or (even is not None and even[0] == best[0]) else best
    if best is None:
        return _impossible(model, groups, seats, demand, objective, stages, shared=False)
    return _plan(model, groups, best[1], demand, objective)


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


def _grouped(machines: Sequence[Machine]) -> list[list[Machine]]:
    """Machines that differ in nothing but the name are one group."""
    groups: dict[Machine, list[Machine]] = {}
    for machine in machines:
        groups.setdefault(msgspec.structs.replace(machine, name=""), []).append(machine)
    return list(groups.values())


def _links(groups: Sequence[Sequence[Machine]]) -> list[str]:
    return list(dict.fromkeys(group[0].link.name for group in groups))


def _seat(model: ModelCost, group: Sequence[Machine], demand: Demand, *, links: list[str]) -> Seat:
    machine, end = group[0], len(model.layers)
    needs = [need_bytes(model, demand, index, index + 1) for index in range(end)]
    costs = [
        sum(round(machine.decode_seconds(piece, demand.batch) * TICKS) for piece in model.pieces(index, index + 1))
        for index in range(end)
    ]
    return Seat(
        count=len(group),
        cost=[0, *accumulate(costs)],
        need=[0, *accumulate(needs)],
        room=machine.usable,
        link=links.index(machine.link.name),
    )


def _hops(model: ModelCost, groups: Sequence[Sequence[Machine]], demand: Demand) -> Hops:
    """Ticks between machines on these links, in the order of `_links`."""
    senders = {group[0].link.name: group[0] for group in groups}.values()
    receivers = [msgspec.structs.replace(machine, name=f"not {machine.name}") for machine in senders]

    def ticks(nbytes: int) -> list[list[int]]:
        return [[round(hop_seconds(a, b, nbytes) * TICKS) for b in receivers] for a in senders]

    return Hops(ticks(model.hidden_bytes(demand.batch)), ticks(TOKEN_BYTES))


def _plan(
    model: ModelCost,
    groups: Sequence[Sequence[Machine]],
    shares: Sequence[Share],
    demand: Demand,
    objective: Objective,
) -> Plan:
    """The stages in order; each machine of a group is used once, unless all are the same one."""
    left = [list(group) for group in groups]
    stages = tuple(Stage(machine=left[share.seat].pop(0), first=share.first, end=share.end) for share in shares)
    return Plan(model=model, demand=demand, objective=objective, stages=stages)


def _impossible(
    model: ModelCost,
    groups: Sequence[Sequence[Machine]],
    seats: Sequence[Seat],
    demand: Demand,
    objective: Objective,
    stages: int,
    *,
    shared: bool,
) -> Impossible:
    lacking = [
        Seat(
            count=seat.count,
            cost=seat.need,
            need=seat.need,
            room=seat.need[-1],
            base=0 if shared else -seat.room,
            link=seat.link,
        )
        for seat in seats
    ]
    best = split(lacking, stages, MAXIMUM)
    assert best is not None
    plan = _plan(model, groups, best[1], demand, objective)
    if shared:
        lack = seats[0].need[-1] - seats[0].room
        return Impossible(plan, (lack, *[0] * (stages - 1)))
    needs = (need_bytes(model, demand, stage.first, stage.end) for stage in plan.stages)
    return Impossible(plan, tuple(need - stage.machine.usable for need, stage in zip(needs, plan.stages, strict=True)))
