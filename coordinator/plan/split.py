"""The best contiguous split of layers over machines, by dynamic programming. Pure, and exact: costs are integers.

Machines with equal figures are one `Seat` with a count, so their order does not matter; otherwise the order is chosen
here. The table has a row for every way to have used some seats, and in it, for every number of layers, the best cost
of placing exactly these layers on exactly these seats. Time: ways x seats x layers^2.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from operator import add

NEVER = 1 << 62  # costs are far below
MAXIMUM: Callable[[int, int], int] = max
SUM: Callable[[int, int], int] = add

Ways = tuple[int, ...]  # how many of each seat are used
Row = list[int]


@dataclass(frozen=True, slots=True)
class Seat:
    """`count` machines alike. Layers [first, end) cost `base + cost[end] - cost[first]` and need
    `need[end] - need[first]` of `room`; both lists begin with 0 and never fall. `link` is the kind of network."""

    count: int
    cost: Sequence[int]
    need: Sequence[int]
    room: int
    base: int = 0
    link: int = 0


@dataclass(frozen=True, slots=True)
class Hops:
    """`onward[a][b]`: cost of a hop from link a to link b; `back[a][b]`: the last one's, to the first stage."""

    onward: Sequence[Sequence[int]]
    back: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Share:
    """Layers [first, end) for one machine of seat number `seat`."""

    seat: int
    first: int
    end: int


def split(
    seats: Sequence[Seat],
    stages: int,
    join: Callable[[int, int], int],
    *,
    hops: Hops | None = None,
    most: int = NEVER,
) -> tuple[int, tuple[Share, ...]] | None:
    """The cheapest plan of exactly `stages` machines and its cost, None if there is none.

    `join` adds a stage's cost to that of the stages before it: MAXIMUM for throughput, SUM for latency; hops are added
    the same way. No stage may cost more than `most`. Every stage has at least one layer.
    """
    found: list[tuple[int, tuple[Share, ...]]] = []
    # the hop back depends on where the first stage is, so each kind of link is tried there
    for home in sorted({seat.link for seat in seats}) if hops and stages > 1 else [None]:
        best = _Table(seats, join, hops if stages > 1 else None, most, home).best(stages)
        if best is not None:
            found.append(best)
    return min(found, key=lambda best: best[0], default=None)


class _Table:
    """Rows by (ways, link of the last stage)."""

    def __init__(
        self,
        seats: Sequence[Seat],
        join: Callable[[int, int], int],
        hops: Hops | None,
        most: int,
        home: int | None,
    ) -> None:
        self._seats, self._join, self._hops, self._home = seats, join, hops, home
        self._layers = len(seats[0].cost) - 1
        self._rows: dict[tuple[Ways, int], Row] = {}
        self._stage = [self._stage_costs(seat, most) for seat in seats]

    def best(self, stages: int) -> tuple[int, tuple[Share, ...]] | None:
        """The cheapest of all ways to use so many seats."""
        ends: list[tuple[int, Ways, int]] = []
        for ways in sorted(product(*(range(seat.count + 1) for seat in self._seats)), key=sum):
            if not 1 <= sum(ways) <= stages:
                continue
            for link in {seat.link for seat, used in zip(self._seats, ways, strict=True) if used}:
                row = self._row(ways, link)
                if min(row) < NEVER:
                    self._rows[ways, link] = row
                    if sum(ways) == stages and row[-1] < NEVER:
                        ends.append((self._join(row[-1], self._back(link)), ways, link))
        if not ends:
            return None
        cost, ways, link = min(ends)
        return cost, tuple(reversed(list(self._walk(ways, link))))

    def _stage_costs(self, seat: Seat, most: int) -> list[tuple[int, list[int]]]:
        """For each end: the first layer from which the stage fits, and its cost from there on."""
        costs: list[tuple[int, list[int]]] = [(0, [])]
        low = 0
        for end in range(1, self._layers + 1):
            while low < end and (
                seat.need[end] - seat.need[low] > seat.room or seat.base + seat.cost[end] - seat.cost[low] > most
            ):
                low += 1
            whole = seat.base + seat.cost[end]
            costs.append((low, [whole - before for before in seat.cost[low:end]]))
        return costs

    def _row(self, ways: Ways, link: int) -> Row:
        row = [NEVER] * (self._layers + 1)
        for number, before in self._last(ways, link):
            for end, (low, costs) in enumerate(self._stage[number]):
                if costs:
                    row[end] = min(row[end], min(map(self._join, before[low:end], costs)))
        return row

    def _last(self, ways: Ways, link: int) -> Iterator[tuple[int, Row]]:
        """The seats that may be the last of these, each with the cost of what is before it."""
        for number, seat in enumerate(self._seats):
            if ways[number] and seat.link == link:
                rest = (*ways[:number], ways[number] - 1, *ways[number + 1 :])
                if any(rest):
                    rows = [row for _, row in self._before(rest, link)]
                    if rows:
                        yield number, rows[0] if len(rows) == 1 else list(map(min, *rows))
                elif self._home in (None, link):
                    yield number, [0, *[NEVER] * self._layers]

    def _before(self, rest: Ways, link: int) -> Iterator[tuple[int, Row]]:
        """Rows of these ways by the link of their last stage, with the hop to `link`."""
        for other in sorted({seat.link for seat in self._seats}):
            row = self._rows.get((rest, other))
            if row is not None:
                hop = self._hops.onward[other][link] if self._hops else 0
                yield other, [min(self._join(cost, hop), NEVER) for cost in row] if hop else row

    def _back(self, link: int) -> int:
        return self._hops.back[link][self._home] if self._hops and self._home is not None else 0

    def _walk(self, ways: Ways, link: int) -> Iterator[Share]:
        """The shares from the last one to the first: those whose cost is the one in the table."""
        end = self._layers
        while any(ways):
            number, first, ways, link = self._step(ways, link, end)
            yield Share(number, first, end)
            end = first

    def _step(self, ways: Ways, link: int, end: int) -> tuple[int, int, Ways, int]:
        wanted = self._rows[ways, link][end]
        for number, before in self._last(ways, link):
            low, costs = self._stage[number][end]
            for first, cost in enumerate(costs, start=low):
                if before[first] < NEVER and self._join(before[first], cost) == wanted:
                    rest = (*ways[:number], ways[number] - 1, *ways[number + 1 :])
                    for other, row in self._before(rest, link):
                        if row[first] == before[first]:
                            return number, first, rest, other
                    return number, first, rest, link
        raise AssertionError("the table holds a cost that nothing gives")
