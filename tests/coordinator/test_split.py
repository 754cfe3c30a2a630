"""Every layer in exactly one stage, and no better split exists."""

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.split import split
from worker.errors import ConfigError

COSTS = st.lists(st.integers(0, 50), min_size=1, max_size=9)


def dearest(costs, runs):
    return max(sum(costs[first:end]) for first, end in runs)


@given(COSTS, st.data())
def test_covers_every_layer_once_and_is_optimal(costs, data):
    stages = data.draw(st.integers(1, len(costs)))
    runs = split(costs, stages)
    assert [index for first, end in runs for index in range(first, end)] == list(range(len(costs)))
    assert len(runs) == stages
    assert all(first < end for first, end in runs)
    every = ([0, *cuts, len(costs)] for cuts in combinations(range(1, len(costs)), stages - 1))
    assert dearest(costs, runs) == min(dearest(costs, list(pairwise(cuts))) for cuts in every)


@pytest.mark.parametrize(("layers", "stages"), [(88, 3), (61, 2), (52, 8), (108, 8), (88, 88)])
def test_no_layer_is_lost_where_uneven_splits_have_lost_some(layers, stages):
    runs = split([1] * layers, stages)
    assert [index for first, end in runs for index in range(first, end)] == list(range(layers))
    assert {end - first for first, end in runs} <= {layers // stages, -(-layers // stages)}


@pytest.mark.parametrize("stages", [0, 4])
def test_more_stages_than_layers_is_the_users_mistake(stages):
    with pytest.raises(ConfigError, match=f"{stages} stages for 3 layers.*--stages 1 to 3"):
        split([1, 1, 1], stages)
