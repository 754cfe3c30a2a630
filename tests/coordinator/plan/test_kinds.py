"""Machines that hardly differ, and more different ones than there are sets to try."""

from itertools import pairwise, permutations
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.plan.chips import GIB
from coordinator.plan.kinds import MOST_SETS, kinds_of, sets_of
from coordinator.plan.machine import Link
from coordinator.plan.plan import Demand, Plan, Stage
from coordinator.plan.planner import Impossible, need_bytes, plan
from coordinator.plan.sources import model_cost, preset_cost
from tests.coordinator.plan.made import made_machine
from worker.checkpoint.quantization import parse_quantization
from worker.errors import ConfigError

DEMO = preset_cost("demo", parse_quantization("8:32"))  # 14 layers
SUPER = model_cost("super", "8:32")
ONE = Demand(context=1024, sequences=2)


def slowest(found):
    return max(map(found.step_seconds, found.stages))


def check(found) -> Plan:
    """Every layer once and in order, every machine once, within its memory."""
    assert isinstance(found, Plan)
    runs = [range(stage.first, stage.end) for stage in found.stages]
    assert [layer for run in runs for layer in run] == list(range(len(found.model.layers)))
    assert all(runs)
    assert len({stage.machine.name for stage in found.stages}) == len(found.stages)
    assert all(need_bytes(found.model, found.demand, s.first, s.end) <= s.machine.usable for s in found.stages)
    return found


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("count", [11, 16])
def test_nearly_equal_machines_do_as_well_as_equal_ones(count, objective):
    numbers = list(range(count))
    Random(count).shuffle(numbers)
    on = [
        made_machine(
            f"m{number}", usable=64 * GIB + number, read=5e11 + 7e8 * number, link=Link("x", (100 + number) / 1e6, 1e9)
        )
        for number in numbers
    ]
    alike = [
        made_machine(f"m{n}", usable=on[0].usable, read=max(m.read for m in on), link=Link("x", 1e-4, 1e9))
        for n in numbers
    ]
    found = check(plan(SUPER, on, ONE, objective=objective, stages=count))
    bound = check(plan(SUPER, alike, ONE, objective=objective, stages=count))  # no plan of these machines is faster
    spread = 7e8 * count / 5e11
    if objective == "throughput":
        assert slowest(found) <= slowest(bound) * (1 + spread)
    assert found.round_seconds() <= bound.round_seconds() * (1 + 2 * spread)


@settings(max_examples=6, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(["throughput", "latency"]), st.sampled_from([0.005, 0.05]))
def test_within_the_tolerance_of_the_best(random, objective, noise):
    """Against every plan of two stages on eleven machines, two of which have a slower link and chip."""

    def noisy(figure):
        return figure * random.uniform(1 - noise, 1)

    on = [
        made_machine(
            f"m{n}",
            usable=20_000_000,
            read=noisy(1e9 if n > 1 else 5e8),
            link=Link("x", noisy(1e-3 if n > 1 else 5e-3), 1e9),
        )
        for n in range(11)
    ]
    random.shuffle(on)
    assert sets_of(kinds_of(DEMO, on, ONE, 2)) <= MOST_SETS
    every = [
        Plan(
            model=DEMO,
            demand=ONE,
            objective=objective,
            stages=tuple(Stage(m, *run) for m, run in zip(pair, runs, strict=True)),
        )
        for pair in permutations(on, 2)
        for runs in [list(pairwise((0, cut, 14))) for cut in range(1, 14)]
    ]
    score = slowest if objective == "throughput" else Plan.round_seconds
    found = check(plan(DEMO, on, ONE, objective=objective, stages=2))
    worst = max(noise / (1 - noise), 0.01)
    assert score(found) <= min(map(score, every)) * (1 + 2 * worst)


def test_few_machines_stay_what_they_are():
    on = [made_machine(f"m{number}", read=1e12 + number * 1e7) for number in range(10)]
    assert len(kinds_of(DEMO, on, ONE, 2)) == 10
    assert len(kinds_of(DEMO, [*on, made_machine("m10", read=2e12)], ONE, 2)) == 2


def test_memory_that_was_counted_too_small_is_counted_again():
    """The only machine that holds the larger half looks most like one that does not."""
    half = next(cut for cut in range(14) if need_bytes(DEMO, ONE, 0, cut) > need_bytes(DEMO, ONE, cut, 14))
    large, small = need_bytes(DEMO, ONE, 0, half), need_bytes(DEMO, ONE, half, 14)
    on = [made_machine(f"m{n}", usable=small, read=1e9 * 2**n) for n in range(12)]
    on.append(made_machine("large", usable=large, read=1e9))
    assert all(kind.seen.room < large for kind in kinds_of(DEMO, on, ONE, 2))
    found = check(plan(DEMO, on, ONE, objective="throughput", stages=2))
    assert "large" in {stage.machine.name for stage in found.stages}


def test_many_different_memories():
    needs = [need_bytes(DEMO, ONE, layer, layer + 1) for layer in range(14)]
    on = [made_machine(f"m{number}", usable=need + number) for number, need in enumerate(needs)]
    roomy = [made_machine(f"m{number}", usable=2 * max(needs) + number * 10**6) for number in range(14)]
    check(plan(DEMO, roomy, ONE, objective="throughput", stages=14))
    lacking = plan(DEMO, on[:12], ONE, objective="throughput", stages=12)
    assert isinstance(lacking, Impossible)
    assert max(lacking.lacks) > 0


def test_where_nothing_can_be_told_the_user_is_told_that():
    """Each machine holds exactly its own layers, and no two hold the same."""
    ends = [sum(range(1, number)) for number in range(2, 13)]
    on = [made_machine(f"m{end}", usable=need_bytes(SUPER, ONE, first, end)) for first, end in pairwise((0, *ends, 88))]
    with pytest.raises(ConfigError, match="12 machines with 12 different memories are more than 1024 sets"):
        plan(SUPER, on, ONE, objective="throughput", stages=12)
