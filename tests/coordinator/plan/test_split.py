"""The dynamic programme against trying everything."""

from itertools import accumulate, combinations, pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.plan.split import MAXIMUM, SUM, Hops, Seat, split


def seat(costs, needs, room, *, count=1, base=0, link=0):
    return Seat(count, [0, *accumulate(costs)], [0, *accumulate(needs)], room, base, link)


def alike(costs, stages):
    return [seat(costs, [0] * len(costs), 0, count=stages)]


def stage_cost(seat, first, end):
    return seat.base + seat.cost[end] - seat.cost[first]


def fits(seat, first, end):
    return seat.need[end] - seat.need[first] <= seat.room


def everything(seats, stages):
    """Every order of machines and every cut that fits."""
    layers = len(seats[0].cost) - 1
    machines = [number for number, seat in enumerate(seats) for _ in range(seat.count)]
    for order in set(permutations(machines, stages)):
        for cuts in combinations(range(1, layers), stages - 1):
            runs = list(pairwise((0, *cuts, layers)))
            if all(fits(seats[number], *run) for number, run in zip(order, runs, strict=True)):
                yield order, runs


def latency(seats, order, runs, hops):
    total = sum(stage_cost(seats[number], *run) for number, run in zip(order, runs, strict=True))
    if hops and len(order) > 1:
        links = [seats[number].link for number in order]
        total += sum(hops.onward[here][there] for here, there in pairwise(links)) + hops.back[links[-1]][links[0]]
    return total


def slowest(seats, order, runs):
    return max(stage_cost(seats[number], *run) for number, run in zip(order, runs, strict=True))


@st.composite
def problems(draw):
    layers = draw(st.integers(1, 6))
    kinds = draw(st.integers(1, 3))
    numbers = st.lists(st.integers(0, 30), min_size=layers, max_size=layers)
    needs = draw(numbers)
    rooms, counts, links = st.integers(0, 90), st.integers(1, 2), st.integers(0, 1)
    seats = [seat(draw(numbers), needs, draw(rooms), count=draw(counts), link=draw(links)) for _ in range(kinds)]
    most = min(layers, sum(each.count for each in seats))
    matrix = st.lists(st.lists(st.integers(0, 20), min_size=2, max_size=2), min_size=2, max_size=2)
    return seats, draw(st.integers(1, most)), Hops(draw(matrix), draw(matrix))


def check(seats, stages, shares):
    """Every layer once, in order, no empty stage, each machine once, within its memory."""
    layers = len(seats[0].cost) - 1
    assert [layer for share in shares for layer in range(share.first, share.end)] == list(range(layers))
    assert len(shares) == stages
    assert all(share.first < share.end for share in shares)
    for number, each in enumerate(seats):
        assert sum(share.seat == number for share in shares) <= each.count
    assert all(fits(seats[share.seat], share.first, share.end) for share in shares)
    return [share.seat for share in shares], [(share.first, share.end) for share in shares]


@settings(max_examples=200, deadline=None)
@given(problems())
def test_the_slowest_stage_is_as_fast_as_can_be(problem):
    seats, stages, _ = problem
    found = split(seats, stages, MAXIMUM)
    every = [slowest(seats, *one) for one in everything(seats, stages)]
    assert (found is None) == (not every)  # infeasible exactly when nothing fits
    if found is not None:
        assert slowest(seats, *check(seats, stages, found[1])) == found[0] == min(every)


@settings(max_examples=200, deadline=None)
@given(problems(), st.booleans())
def test_the_sum_of_stages_and_hops_is_least(problem, with_hops):
    seats, stages, hops = problem
    hops = hops if with_hops else None
    found = split(seats, stages, SUM, hops=hops)
    every = [latency(seats, *one, hops) for one in everything(seats, stages)]
    assert (found is None) == (not every)
    if found is not None:
        assert latency(seats, *check(seats, stages, found[1]), hops) == found[0] == min(every)


@settings(max_examples=150, deadline=None)
@given(problems(), st.integers(0, 120))
def test_no_stage_costs_more_than_allowed(problem, most):
    seats, stages, hops = problem
    found = split(seats, stages, SUM, hops=hops, most=most)
    every = [latency(seats, *one, hops) for one in everything(seats, stages) if slowest(seats, *one) <= most]
    assert (found[0] if found else None) == min(every, default=None)
    assert found is None or slowest(seats, *check(seats, stages, found[1])) <= most


@settings(max_examples=100, deadline=None)
@given(problems())
def test_the_least_lack_of_memory(problem):
    """What the explanation of an impossible plan rests on: cost is what is needed beyond the room."""
    seats, stages, _ = problem
    lacking = [Seat(each.count, each.need, each.need, each.need[-1], -each.room, each.link) for each in seats]
    found = split(lacking, stages, MAXIMUM)
    every = [
        max(0, slowest(lacking, order, runs))
        for order in set(permutations([n for n, each in enumerate(seats) for _ in range(each.count)], stages))
        for cuts in combinations(range(1, len(seats[0].cost) - 1), stages - 1)
        for runs in [list(pairwise((0, *cuts, len(seats[0].cost) - 1)))]
    ]
    assert found is not None
    assert found[0] == min(every)
    assert (found[0] == 0) == any(True for _ in everything(seats, stages))


@given(st.lists(st.integers(0, 50), min_size=1, max_size=40), st.data())
def test_never_worse_than_the_even_split(costs, data):
    stages = data.draw(st.integers(1, len(costs)))
    seats = alike(costs, stages)
    found = split(seats, stages, MAXIMUM)
    assert found is not None
    check(seats, stages, found[1])
    cuts = [len(costs) * number // stages for number in range(stages + 1)]
    assert found[0] <= max(sum(costs[first:end]) for first, end in pairwise(cuts))


@pytest.mark.parametrize(("layers", "stages"), [(88, 3), (61, 2), (52, 8), (108, 8), (88, 88)])
def test_no_layer_is_lost_where_uneven_splits_have_lost_some(layers, stages):
    seats = alike([1] * layers, stages)
    found = split(seats, stages, MAXIMUM)
    assert found is not None
    _, runs = check(seats, stages, found[1])
    assert {end - first for first, end in runs} <= {layers // stages, -(-layers // stages)}
