"""Which sequences step together."""

import random

import pytest

from coordinator.scheduling.batches import MOST_MEMBERS, Batches


def sizes(batches):
    return [len(members) for members in batches.members]


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_they_fill_up_one_a_stage_first(stages):
    batches = Batches(stages=stages, most=20, lease=8)
    for request in range(1, 21):
        batches.join(request)
        first = sizes(batches)[:stages]
        assert max(sizes(batches)) <= MOST_MEMBERS
        assert sum(first) == min(request, stages * MOST_MEMBERS)
        assert max(first) - min(first) <= 1


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("stages", "most"), [(1, 8), (2, 16), (4, 32), (2, 40)])
def test_they_stay_even_whoever_leaves(stages, most, seed):
    rng = random.Random(seed)
    batches, running = Batches(stages=stages, most=most, lease=8), []
    for request in range(300):
        if len(running) == most or (running and rng.random() < 0.5):
            batches.leave(running.pop(rng.randrange(len(running))))
        else:
            batches.join(request)
            running.append(request)
        counts = sizes(batches)
        assert sorted(member for members in batches.members for member in members) == sorted(running)
        assert max(counts) <= MOST_MEMBERS
        assert sum(counts[:stages]) == min(len(running), stages * MOST_MEMBERS)
        assert max(counts[:stages]) - min(counts[:stages]) <= 1


def test_only_what_changed_or_ran_for_half_its_time_gets_a_lease():
    batches = Batches(stages=2, most=4, lease=8)
    batches.join(1)
    assert batches.grants() == [(0, (1,))]
    assert batches.grants() == []
    for _ in range(3):
        batches.stepped(0)
        assert batches.grants() == []
    batches.stepped(0)
    assert batches.grants() == [(0, (1,))]
    batches.join(2)
    batches.leave(1)
    assert batches.grants() == [(1, (2,))]
