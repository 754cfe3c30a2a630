"""What the scheduling does to time, exactly: a model's compute is replaced by seconds on a clock of the test's own."""

import random
from statistics import median

import pytest

from tests.sim.timed import TimedWorld
from tests.sim.world import request

STEP = 0.004
HOP = 0.0001
STAGES = [1, 2, 4]


def asked(number, prompt=3, tokens=200):
    return request(number, [number % 200] * prompt, tokens, stop=False)


def rate(world, numbers, since):
    """Tokens a second of all requests together, from `since` until the first one ends."""
    end = min(world.arrivals[number][-1] for number in numbers)
    return sum(since < time <= end for number in numbers for time in world.arrivals[number]) / (end - since)


@pytest.mark.parametrize("stages", STAGES)
def test_one_sequence_takes_the_sum_of_the_stages(stages):
    world = TimedWorld(stages=stages, decode=STEP, hop=HOP)
    world.submit(1, asked(1))
    world.finish(1)
    assert median(world.gaps(1)) == pytest.approx(stages * STEP + (stages > 1) * stages * HOP, rel=0.01)


@pytest.mark.parametrize("stages", STAGES)
def test_a_sequence_a_stage_fills_the_pipeline(stages):
    """The ideal: a stage is never idle, so a step comes out every STEP seconds."""
    world = TimedWorld(stages=stages, decode=STEP, hop=HOP)
    numbers = range(1, stages + 1)
    for number in numbers:
        world.submit(number, asked(number))
    world.finish(*numbers)
    warm = max(world.arrivals[number][2] for number in numbers)
    assert rate(world, numbers, warm) >= 0.9 / STEP


@pytest.mark.parametrize("stages", STAGES)
def test_eight_sequences_come_out_in_even_batches(stages):
    """The ideal with batches: all eight in the time of one round."""
    world = TimedWorld(stages=stages, decode=STEP, hop=HOP)
    numbers = range(1, 9)
    for number in numbers:
        world.submit(number, asked(number))
    world.finish(*numbers)
    warm = max(world.arrivals[number][2] for number in numbers)
    assert rate(world, numbers, warm) >= 0.9 * 8 / (stages * STEP)


@pytest.mark.parametrize("stages", [2, 4])
def test_the_pipeline_stays_full_when_half_of_the_sequences_leave(stages):
    world = TimedWorld(stages=stages, decode=STEP, hop=HOP)
    for number in range(1, 2 * stages + 1):
        # those that stay would be in the same half of the batches
        world.submit(number, asked(number, tokens=40 if number % stages < stages // 2 else 300))
    stay = [number for number in range(1, 2 * stages + 1) if number % stages >= stages // 2]
    world.finish(*stay)
    left = max(world.arrivals[number][-1] for number in world.arrivals if number not in stay)
    assert rate(world, stay, left + 10 * stages * STEP) >= 0.9 / STEP


@pytest.mark.parametrize("background", [True, False], ids=["gpu", "cpu"])
@pytest.mark.parametrize("stages", STAGES)
def test_the_pieces_of_a_prompt_follow_each_other_through_the_stages(stages, background):
    """A piece is on one stage while the next one is on the stage before."""
    piece, pieces = 0.02, 20
    world = TimedWorld(stages=stages, decode=STEP, prefill=piece, hop=HOP, background=background)
    world.submit(1, asked(1, prompt=64 * pieces, tokens=1))
    done = world.finish(1) - world.began
    assert done == pytest.approx((pieces + stages - 1) * piece, rel=0.02)


@pytest.mark.parametrize("background", [True, False], ids=["gpu", "cpu"])
@pytest.mark.parametrize("piece", [0.002, 0.02, 0.1])
@pytest.mark.parametrize("running", [1, 4])
@pytest.mark.parametrize("stages", STAGES)
def test_a_long_prompt_costs_a_running_sequence_at_most_one_piece_a_token(stages, running, piece, background):
    world = TimedWorld(stages=stages, decode=STEP, prefill=piece, hop=HOP, background=background)
    numbers = range(1, running + 1)
    for number in numbers:
        world.submit(number, asked(number, tokens=2000))
    world.run_while(lambda: any(len(world.arrivals[number]) < 50 for number in numbers))
    before = [gap for number in numbers for gap in world.gaps(number, since=world.now - 40 * stages * STEP)]
    began = world.now
    world.submit(9, asked(9, prompt=4000, tokens=1))
    end = world.finish(9)
    during = [gap for number in numbers for gap in world.gaps(number, since=began) if gap]
    assert len(during) >= 62 * running
    assert max(during) <= max(before) + piece + stages * HOP
    assert end - began <= 1.1 * 63 * (piece + stages * (STEP + HOP))  # and the prompt is not held up by more either


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stages", [2, 4])
def test_so_it_is_when_steps_take_longer_now_and_then(stages, seed):
    class Uneven(TimedWorld):
        def cost(self, stage, batch, rows):
            return super().cost(stage, batch, rows) * chance.uniform(1, 1.3)

    chance, piece = random.Random(seed), 0.05
    world = Uneven(stages=stages, decode=STEP, prefill=piece, hop=HOP)
    for number in range(1, 5):
        world.submit(number, asked(number, tokens=600))
    world.run_while(lambda: any(len(world.arrivals[number]) < 50 for number in range(1, 5)))
    before = max(gap for number in range(1, 5) for gap in world.gaps(number, since=world.now - 40 * stages * STEP))
    began = world.now
    world.submit(9, asked(9, prompt=4000, tokens=1))
    world.finish(9)
    assert max(gap for number in range(1, 5) for gap in world.gaps(number, since=began)) <= before + 1.3 * piece


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("stages", [2, 4])
def test_so_it_is_when_others_end_and_begin(stages, seed):
    """A batch that loses a member goes on stepping: its step is waited for as before."""
    chance, piece = random.Random(seed), 0.05
    world = TimedWorld(stages=stages, decode=STEP, prefill=piece, hop=HOP)
    stay, leave, come = range(1, 5), range(11, 19), range(21, 25)
    for number in (*stay, *leave):
        world.submit(number, asked(number, tokens=600 if number in stay else chance.randrange(60, 110)))
    world.run_while(lambda: any(len(world.arrivals[number]) < 50 for number in stay))
    before = max(gap for number in stay for gap in world.gaps(number, since=world.now - 40 * stages * STEP))
    began = world.now
    world.submit(9, asked(9, prompt=4000, tokens=1))
    for number in come:
        world.run_until(world.now + chance.uniform(1, 5) * piece)
        world.submit(number, asked(number, tokens=chance.randrange(1, 10)))
    world.finish(9)
    assert all(world.arrivals[number][-1] < world.now for number in leave)
    assert max(gap for number in stay for gap in world.gaps(number, since=began)) <= before + 1.1 * piece


@pytest.mark.parametrize("stages", STAGES)
def test_a_short_prompt_is_answered_while_long_ones_prefill(stages):
    piece = 0.02
    world = TimedWorld(stages=stages, decode=STEP, prefill=piece, hop=HOP)
    for number in (1, 2):
        world.submit(number, asked(number, prompt=6400, tokens=5))
    world.run_until(world.began + 10.5 * piece)
    world.submit(3, asked(3, prompt=10, tokens=5))
    began = world.now
    world.finish(1, 2, 3)
    # two steps have started and two long prompts are before it in turn
    assert world.arrivals[3][0] - began <= (4 + stages) * piece + stages * HOP
    assert world.arrivals[3][-1] < world.arrivals[1][0] / 4


@pytest.mark.parametrize("stages", STAGES)
def test_the_first_come_is_first_admitted_and_done(stages):
    world = TimedWorld(stages=stages, decode=STEP, hop=HOP, max_running=2)
    for number in range(1, 9):
        world.submit(number, asked(number, tokens=10))
    world.finish(*range(1, 9))
    firsts = [world.arrivals[number][0] for number in range(1, 9)]
    assert firsts == sorted(firsts)
