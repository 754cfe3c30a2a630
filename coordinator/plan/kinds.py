"""Machines that a plan does not tell apart. Pure: machines in; kinds of them out, of which the split chooses.

Machines of equal figures are one kind, whatever their names. A split tries every set of kinds, so there may be only so
many. What is measured differs a little between machines that are the same, so where the kinds are too many (and only
there) those that differ by at most `HARDLY` become one, then always the two that differ least until the sets are few
enough. Such a kind has its machines' worst figures: the slowest time of each layer, the least memory, the slowest link.

So a plan over kinds never needs more memory or time than was counted. If no kind joins machines that differ by more
than d, it is at most d slower in its slowest stage, and 2 d in its round, than the best of the plans that fit the
least memories.
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from math import prod

import msgspec

from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Link, Machine
from coordinator.plan.plan import Demand

TICKS = 10**12  # a second in integer costs: exact sums, so that equal plans compare equal
MOST_SETS = 1024  # to choose from: some seconds
HARDLY = 0.01


class Seen(msgspec.Struct, frozen=True):
    """What a plan sees of a machine: ticks of a decode step of each layer, bytes of memory, and the link."""

    costs: tuple[int, ...]
    room: int
    link: Link


class Kind(msgspec.Struct, frozen=True):
    """Machines, the fastest first, and the worst of their figures; `most_room` is the largest of their memories."""

    machines: tuple[Machine, ...]
    seen: Seen
    most_room: int

    @property
    def counts_too_little(self) -> bool:
        """Whether some of the machines have more memory than is counted."""
        return self.seen.room < self.most_room


Apart = Callable[[Seen, Seen], float]


def sets_of(kinds: Sequence[Kind]) -> int:
    """How many different sets of machines there are."""
    return prod(len(kind.machines) + 1 for kind in kinds)


def kinds_of(model: ModelCost, machines: Sequence[Machine], demand: Demand, stages: int) -> list[Kind]:
    """Kinds in the order of their first machines, at most `MOST_SETS` sets of them.

    A difference is relative for the time of a layer and for memory. For a link it is that of sending what a step sends,
    as a part of the time that one of `stages` computes if all layers are where they are fastest.
    """
    equal = _equal(model, machines, demand)
    share = sum(map(min, zip(*(seen.costs for seen in equal), strict=True))) / TICKS / stages
    nbytes = model.hidden_bytes(demand.batch)

    def apart(a: Seen, b: Seen) -> float:
        latency = abs(a.link.latency - b.link.latency)
        transfer = abs(nbytes / a.link.bandwidth - nbytes / b.link.bandwidth)
        return max((latency + transfer) / share, _ratio(a.room, b.room), *map(_ratio, a.costs, b.costs))

    return _kinds(equal, apart)


def kinds_of_memory(model: ModelCost, machines: Sequence[Machine], demand: Demand) -> list[Kind]:
    """The same by nothing but memory: it is exact unless there are too many different memories."""
    return _kinds(_equal(model, machines, demand), lambda a, b: _ratio(a.room, b.room), hardly=0.0)


def _equal(model: ModelCost, machines: Sequence[Machine], demand: Demand) -> dict[Seen, list[Machine]]:
    equal: dict[Seen, list[Machine]] = {}
    for machine in machines:
        costs = tuple(
            sum(round(machine.decode_seconds(piece, demand.batch) * TICKS) for piece in model.pieces(index, index + 1))
            for index in range(len(model.layers))
        )
        link = msgspec.structs.replace(machine.link, name="")  # links of one name may differ, and the reverse
        equal.setdefault(Seen(costs, machine.usable, link), []).append(machine)
    return equal


def _kinds(equal: dict[Seen, list[Machine]], apart: Apart, hardly: float = HARDLY) -> list[Kind]:
    seens = list(equal)
    groups = [[seen] for seen in seens]
    if prod(len(found) + 1 for found in equal.values()) > MOST_SETS:
        groups = _joined(equal, apart, hardly)
    kinds = [_kind([(seen, machine) for seen in group for machine in equal[seen]]) for group in groups]
    order = [machine for found in equal.values() for machine in found]
    return sorted(kinds, key=lambda kind: min(map(order.index, kind.machines)))


def _joined(equal: dict[Seen, list[Machine]], apart: Apart, hardly: float) -> list[list[Seen]]:
    """Groups: always the two become one whose members differ least, by those that differ most."""
    seens = list(equal)
    far = {(a, b): apart(seens[a], seens[b]) for a, b in combinations(range(len(seens)), 2)}

    def between(pair: tuple[list[int], list[int]]) -> float:
        return max(far[min(a, b), max(a, b)] for a in pair[0] for b in pair[1])

    groups: list[list[int]] = [[number] for number in range(len(seens))]
    while len(groups) > 1:
        nearest = min(combinations(groups, 2), key=between)
        sets = prod(sum(len(equal[seens[number]]) for number in group) + 1 for group in groups)
        if sets <= MOST_SETS and between(nearest) > hardly:
            break
        groups = [*(group for group in groups if group not in nearest), nearest[0] + nearest[1]]
    return [[seens[number] for number in group] for group in groups]


def _kind(members: list[tuple[Seen, Machine]]) -> Kind:
    seens = [seen for seen, _ in members]
    link = Link("", max(seen.link.latency for seen in seens), min(seen.link.bandwidth for seen in seens))
    costs = tuple(map(max, zip(*(seen.costs for seen in seens), strict=True)))
    rooms = [seen.room for seen in seens]
    fastest = sorted(members, key=lambda member: (sum(member[0].costs), member[0].link.latency))
    return Kind(tuple(machine for _, machine in fastest), Seen(costs, min(rooms), link), max(rooms))


def _ratio(a: int, b: int) -> float:
    return (max(a, b) + 1) / (min(a, b) + 1) - 1  # one tick and one byte are nothing
