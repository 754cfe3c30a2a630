"""Requests that begin from snapshots get the tokens of those that do not, whatever the order of events."""

import random

import pytest
from msgspec.structs import replace

from tests.sim.stages import FOOTPRINT, expected_tokens
from tests.sim.test_ring import check, check_empty, settle
from tests.sim.world import World, request

STAGES = [1, 2, 3, 5]
SYSTEMS = [[3] * 150, [5] * 200, [9] * 64]


def asked(number, rng, history):
    """A new conversation after one of the system prompts, an old one again, or one that goes on."""
    system = rng.choice(SYSTEMS)
    prompt = [*system, *(rng.randrange(250) for _ in range(rng.choice((7, 130, 300))))]
    if history and rng.random() < 0.6:
        before, answer = rng.choice(history)
        prompt = [*before, *answer, rng.randrange(250), 8] if answer and rng.random() < 0.7 else list(before)
    made = request(number, prompt, rng.randint(1, 20))
    return replace(made, marks=(len(system), len(prompt) - 3), repeatable=rng.random() < 0.3)


def serve(world, seed, count, *, kill=False, cancel=False):
    rng = random.Random(seed)
    requests, history = {}, []
    for number in range(1, count + 1):
        requests[number] = asked(number, rng, history)
        world.submit(number, requests[number])
        for _ in range(rng.choice((0, 20, 2000))):
            world.step()
        if cancel and rng.random() < 0.3:
            world.cancel(rng.randint(1, number))
        if kill and rng.random() < 0.2:
            world.kill(rng.randrange(world.stages))
        history += [
            (requests[n].prompt, world.tokens[n])
            for n in world.finished
            if (requests[n].prompt, world.tokens[n]) not in history
        ]
    settle(world)
    return requests


def check_snapshots(world, limit=None):
    """Every stage holds what the coordinator thinks, and no more than it may."""
    stored = set(world.scheduler.prefixes._stored)
    for engine in world.engines.values():
        assert set(engine.snapshots) == stored
        held = sum(FOOTPRINT.snapshot_bytes(int(name.partition("-")[0])) for name in engine.snapshots)
        assert limit is None or held <= limit


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stages", STAGES)
def test_tokens_do_not_depend_on_snapshots(stages, seed):
    world = World(stages=stages, seed=seed, chunk=64)
    requests = serve(world, seed, 12)
    check(world, requests, stages)
    check_empty(world)
    check_snapshots(world)
    assert world.scheduler.prefixes.counts.tokens == sum(world.cached.values()) > 0
    assert not world.errors


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("limit", [0, 99, 250, 1000])
def test_nor_on_how_few_of_them_fit(limit, seed):
    world = World(stages=2, seed=seed, chunk=100, snapshot_bytes=limit)
    requests = serve(world, seed, 12)
    check(world, requests, 2)
    check_snapshots(world, limit)
    counts = world.scheduler.prefixes.counts
    assert (counts.evictions > 0) == (limit >= FOOTPRINT.constant)
    if limit == 1000:
        assert counts.hits > 0
    if limit < FOOTPRINT.constant:
        assert counts.hits == 0


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stages", [1, 3])
def test_nor_on_cancelled_requests(stages, seed):
    world = World(stages=stages, seed=seed, chunk=64, max_running=3, snapshot_bytes=500)
    requests = serve(world, seed, 14, cancel=True)
    check(world, {n: each for n, each in requests.items() if n in world.finished}, stages)
    for number, each in requests.items():
        assert world.tokens[number] == expected_tokens(each, stages)[: len(world.tokens[number])]
    check_empty(world)
    check_snapshots(world, 500)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_nor_on_lost_stages(stages, seed):
    world = World(stages=stages, seed=seed, chunk=64, snapshot_bytes=2000)
    requests = serve(world, seed, 14, kill=True)
    check(world, {n: each for n, each in requests.items() if n not in world.errors}, stages)
    check_empty(world)
    check_snapshots(world, 2000)


def test_what_survives_on_all_stages_is_used_in_the_next_epoch():
    world = World(stages=2, seed=0, chunk=64)
    first = request(1, [1] * 300, 5, stop=False)
    world.submit(1, first)
    settle(world)
    world._carry_out(world.coordination._fault("something", 0.0))
    second = request(2, [*first.prompt, *world.tokens[1], 2], 5, stop=False)
    world.submit(2, second)
    settle(world)
    assert world.cached[2] == len(first.prompt) + 4
    world.kill(1)
    assert world.scheduler.prefixes.snapshots == 0
    settle(world)
    assert [len(engine.snapshots) for _, engine in sorted(world.engines.items())] == [0, 0]
    third = request(3, second.prompt, 5, stop=False)
    world.submit(3, third)
    settle(world)
    assert world.cached[3] == 0
    check(world, {1: first, 2: second, 3: third}, 2)


def test_a_stage_without_the_snapshot_says_so_and_no_wrong_token_comes():
    world = World(stages=3, seed=0, chunk=64)
    first = request(1, [1] * 300, 5, stop=False)
    world.submit(1, first)
    settle(world)
    world.engines[1].snapshots.clear()
    world.submit(2, request(2, [*first.prompt, *world.tokens[1], 2], 5))
    settle(world)
    assert "snapshot" in world.errors[2].message
    assert not world.tokens[2]
    world.submit(3, again := request(3, [*first.prompt, *world.tokens[1], 2], 5))
    settle(world)
    check(world, {1: first, 3: again}, 3)
