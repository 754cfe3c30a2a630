"""The simulated pipeline against closed forms, and against a measurement that others made."""

import pytest

from coordinator.load.plan import Planned, plan_load
from coordinator.plan.chips import link, machines
from coordinator.plan.forecast import forecast
from coordinator.plan.plan import Demand, Plan
from coordinator.plan.planner import plan
from coordinator.plan.simulation import simulate
from coordinator.plan.sources import model_cost

STEP, HOP = 0.004, 0.0001


class Even:
    """Stages of STEP seconds, a piece of a prompt `piece` times as long, hops of HOP; `shared` on one device."""

    def __init__(self, stages, *, shared=False, piece=1.0, occupied=0.0):
        self.stages = stages
        self._shared, self._piece, self._occupied = shared, piece, occupied

    def capacity(self):
        return 1 if self._shared else self.stages

    def decode(self, stage, batch, positions):
        assert 1 <= batch <= 8
        return STEP

    def prefill(self, stage, rows, positions, sampled):
        return STEP * self._piece

    def hop(self, stage, rows):
        return (self._occupied * (rows > 0), HOP if self.stages > 1 else 0.0)


def run(clockwork, users, answer=200, prompt=8):
    load = [Planned(0.0, prompt, answer, seed) for seed in range(users)]
    result = simulate(clockwork, load, chunk=512, max_running=64)
    assert (result.done, result.failed) == (users, 0)
    assert result.answer_tokens == users * answer
    return result


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_one_sequence_waits_for_all_stages_and_hops(stages):
    result = run(Even(stages), 1)
    round_seconds = stages * STEP + (stages * HOP if stages > 1 else 0)
    assert result.inter_token_seconds["p50"] == pytest.approx(round_seconds)
    assert result.first_token_seconds["p50"] == pytest.approx(round_seconds)
    assert result.request_seconds["p99"] == pytest.approx(200 * round_seconds)
    assert result.busy == pytest.approx([STEP / round_seconds] * stages)


@pytest.mark.parametrize("stages", [2, 3, 4])
def test_as_many_sequences_as_stages_fill_the_pipeline(stages):
    full = run(Even(stages), stages)
    # a round of every batch takes a step of each stage, or the hops as well if they are not hidden
    assert full.inter_token_seconds["p50"] == pytest.approx(stages * (STEP + HOP))
    assert full.answer_tokens_per_second == pytest.approx(1 / (STEP + HOP), rel=0.05)


def test_batches_double_the_rate_and_more_than_eight_make_more_steps():
    rates = {users: run(Even(2), users).answer_tokens_per_second for users in (2, 4, 16, 32)}
    assert rates[4] == pytest.approx(2 * rates[2], rel=0.05)
    assert rates[16] == pytest.approx(8 * rates[2], rel=0.10)
    assert rates[32] == pytest.approx(rates[16], rel=0.10)


def test_stages_of_one_device_take_turns():
    shared = run(Even(4, shared=True), 4)
    assert shared.answer_tokens_per_second == pytest.approx(1 / (4 * STEP), rel=0.05)


def test_a_link_that_is_busy_for_longer_than_a_stage_sets_the_pace():
    slow = run(Even(2, occupied=3 * STEP), 2)
    assert slow.inter_token_seconds["p50"] == pytest.approx(2 * (STEP + HOP) + 3 * STEP, rel=0.35)
    assert slow.answer_tokens_per_second <= 1 / (3 * STEP)


def test_pieces_of_a_prompt_follow_each_other_through_the_stages():
    """Four pieces on three stages: the first needs three steps to come out, the others one each."""
    result = run(Even(3), 1, answer=1, prompt=4 * 512)
    assert result.first_token_seconds["p50"] == pytest.approx((3 + 3) * STEP + 3 * HOP)


def test_a_prompt_delays_running_answers_by_its_pieces_at_most():
    clockwork = Even(2, piece=10.0)
    load = [Planned(0.0, 8, 400, 0), Planned(0.5, 4096, 8, 1)]
    result = simulate(clockwork, load, chunk=512, max_running=8)
    assert result.done == 2
    # a token waits for one piece on each stage at most
    assert result.inter_token_seconds["p99"] <= 2 * 10 * STEP + 2 * STEP + 4 * HOP


def test_what_others_measured_with_four_stages_of_four_milliseconds():
    """reference/distributed.md 0.8: 55 tok/s with one sequence in flight, 223 with four."""
    assert run(Even(4), 1).answer_tokens_per_second == pytest.approx(55, rel=0.12)
    assert run(Even(4), 4).answer_tokens_per_second == pytest.approx(223, rel=0.12)


def test_the_same_load_gives_the_same_report():
    load = plan_load(20, rate=50.0, prompt_tokens=64, answer_tokens=20, spread=0.5, seed=3)
    reports = [simulate(Even(3), load, chunk=128, max_running=8) for _ in range(2)]
    assert reports[0] == reports[1]
    assert reports[0].done == 20
    assert reports[0].prompt_tokens == sum(one.prompt_tokens for one in load)


def test_a_forecast_agrees_with_the_plan_it_is_made_of():
    on = machines(("4 x M3 Ultra 512",), link("thunderbolt"))
    found = plan(model_cost("super", "8:32"), on, Demand(context=4096, sequences=4), objective="throughput", stages=4)
    assert isinstance(found, Plan)
    alone = forecast(found, users=1, prompt_tokens=64, answer_tokens=256, chunk=512, pause=0.25)
    assert alone.inter_token_seconds["p50"] == pytest.approx(found.round_seconds(), rel=0.02)
    full = forecast(found, users=4, prompt_tokens=64, answer_tokens=256, chunk=512, pause=0.25)
    assert 1 / full.inter_token_seconds["p50"] * 4 == pytest.approx(1 / found.cycle_seconds(), rel=0.05)
    assert full.answer_tokens_per_second < 1 / found.cycle_seconds()
