"""Every request gets its own tokens, whatever the order of events."""

import random

import pytest

from tests.sim.stages import expected_tokens
from tests.sim.world import LEASE, World, request
from worker.errors import LinkLostError, StageFailedError

STAGES = [1, 2, 3, 5]


def settle(world, limit=200_000):
    for _ in range(limit):
        if not world.step():
            return
        assert all(len(engine.states) <= world.scheduler._bounds.max_running for engine in world.engines.values())
    pytest.fail("the cluster did not come to rest")


def some_requests(rng, count):
    return {
        number: request(number, [rng.randrange(250) for _ in range(rng.randint(1, 17))], rng.randint(1, 20))
        for number in range(1, count + 1)
    }


def check(world, requests, stages):
    for number, asked in requests.items():
        assert world.tokens[number] == expected_tokens(asked, stages), number
        assert world.finished[number] == ("stop" if world.tokens[number][-1] in asked.stop_tokens else "length")


def check_empty(world):
    assert world.scheduler.running == world.scheduler.waiting == 0
    assert all(not engine.states for engine in world.engines.values())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("stages", STAGES)
def test_tokens_do_not_depend_on_order_company_or_cut(stages, seed):
    world = World(stages=stages, seed=seed)
    rng = random.Random(seed)
    requests = some_requests(rng, 9)
    for number, asked in requests.items():
        world.submit(number, asked)
        for _ in range(rng.randint(0, 60)):
            world.step()
    settle(world)
    check(world, requests, stages)
    check_empty(world)
    assert not world.errors


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("stages", STAGES)
def test_cancelled_requests_leave_nothing_behind_and_disturb_nobody(stages, seed):
    world = World(stages=stages, seed=seed, max_running=4)
    rng = random.Random(seed)
    requests = some_requests(rng, 10)
    cancelled = set(rng.sample(sorted(requests), 4))
    for number, asked in requests.items():
        world.submit(number, asked)
        for _ in range(rng.randint(0, 40)):
            world.step()
        for victim in sorted(cancelled):
            if victim < number and rng.random() < 0.5:
                world.cancel(victim)
    for victim in cancelled:
        world.cancel(victim)
    settle(world)
    check(world, {number: asked for number, asked in requests.items() if number not in cancelled}, stages)
    for victim in cancelled:
        tokens = world.tokens[victim]
        assert tokens == expected_tokens(requests[victim], stages)[: len(tokens)]
    check_empty(world)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_a_lost_stage_ends_what_ran_and_nothing_else(stages, seed):
    world = World(stages=stages, seed=seed, max_running=3)
    rng = random.Random(seed)
    requests = some_requests(rng, 8)
    for number, asked in requests.items():
        world.submit(number, asked)
    for _ in range(rng.randint(1, 400)):
        world.step()
    world.kill(rng.randrange(stages))
    settle(world)
    for number in world.errors:
        assert number not in world.finished
        tokens = world.tokens[number]
        assert tokens == expected_tokens(requests[number], stages)[: len(tokens)]
    check(world, {n: asked for n, asked in requests.items() if n not in world.errors}, stages)
    assert world.cluster.is_ready
    check_empty(world)


@pytest.mark.parametrize("seed", range(6))
def test_a_lost_link_begins_the_next_epoch(seed):
    world = World(stages=3, seed=seed)
    rng = random.Random(seed)
    requests = some_requests(rng, 6)
    for number in (1, 2, 3):
        world.submit(number, requests[number])
    while not world.tokens:
        assert world.step()
    before = world.cluster.epoch
    world.services[1]._transport.links.problem = LinkLostError("the connection to stage 2 was lost")
    while world.cluster.epoch == before:
        assert world.step()
    for number in (4, 5, 6):
        world.submit(number, requests[number])
    settle(world)
    assert world.cluster.is_ready
    ended = set(world.errors)
    assert ended
    for error in world.errors.values():
        assert isinstance(error, StageFailedError)
        assert "the connection to stage 2 was lost" in error.message
    check(world, {number: asked for number, asked in requests.items() if number not in ended}, 3)
    check_empty(world)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("stages", [2, 3])
def test_repeated_activations_and_tokens_change_nothing(stages, seed):
    world = World(stages=stages, seed=seed, repeats=0.2)
    requests = some_requests(random.Random(seed), 6)
    while not world.cluster.is_ready:
        world.step()
    for number, asked in requests.items():
        world.submit(number, asked)
    settle(world)
    check(world, requests, stages)
    assert sum(service.vitals.duplicates for service in world.services) > 0


@pytest.mark.parametrize("stages", [2, 3])
def test_every_stage_says_how_many_steps_a_request_took(stages):
    """One stage alone runs a step ahead, so there it may be one more."""
    world = World(stages=stages, seed=3, chunk=5)
    requests = some_requests(random.Random(3), 7)
    for number, asked in requests.items():
        world.submit(number, asked)
    settle(world)
    for number, asked in requests.items():
        steps = (-(-len(asked.prompt) // 5), len(world.tokens[number]) - 1)
        counted = [(times.stage, times.prefill_steps, times.decode_steps) for times in world.times[number]]
        assert counted == [(stage, *steps) for stage in range(stages)]


def test_a_step_never_outlives_its_lease():
    world = World(stages=2, seed=1)
    world.submit(1, request(1, [1, 2, 3], 500, stop=False))
    while len(world.tokens[1]) < 10:
        world.step()
    steps = world.engines[0].steps
    world._deliver_report = lambda stage: world.reports[stage].clear() or True  # the coordinator is gone
    settle(world)
    assert 0 < world.engines[0].steps - steps <= 2 * LEASE  # one lease under way, one in the queue
