"""Plans of real shapes over real and made-up machines."""

from itertools import combinations, pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.plan.advice import advice
from coordinator.plan.chips import link, machines
from coordinator.plan.machine import Link, hop_seconds
from coordinator.plan.plan import Demand, Objective, Plan, Stage
from coordinator.plan.planner import Impossible, equal_stages, need_bytes, plan
from coordinator.plan.sources import model_cost, preset_cost
from tests.coordinator.plan.made import LINK, made_machine
from worker.checkpoint.quantization import parse_quantization
from worker.errors import ConfigError

DEMO = preset_cost("demo", parse_quantization("8:32"))  # 14 layers
ONE = Demand(context=1024, sequences=2)
WIFI = Link("slow", 0.01, 1e8)
LINKS = (
    LINK,
    WIFI,
    Link("made", 0.0004, 1e9),
    Link("made", 0.05, 1e9),
    Link("made", 0.0003, 1e7),
    Link("same", 0.0003, 1e9),
)


def planned(model, found_on, stages=None, objective: Objective = "throughput", demand=ONE):
    found = plan(model, found_on, demand, objective=objective, stages=stages or len(found_on))
    assert isinstance(found, Plan)
    return found


def check(found: Plan) -> None:
    """Every layer once and in order, every machine once, within its memory."""
    assert [layer for stage in found.stages for layer in range(stage.first, stage.end)] == list(
        range(len(found.model.layers))
    )
    assert all(stage.first < stage.end for stage in found.stages)
    assert len({stage.machine.name for stage in found.stages}) == len(found.stages)
    for stage in found.stages:
        need = found.resident_bytes(stage) + found.state_bytes(stage)
        assert need == need_bytes(found.model, found.demand, stage.first, stage.end) <= stage.machine.usable


MACHINES = st.lists(
    st.tuples(
        st.integers(1, 12).map(lambda share: share * 1_500_000),  # the demo model takes some 11 MB
        st.sampled_from([2e11, 5e11, 1e12]),
        st.sampled_from([0.0, 2e-5]),
        st.sampled_from(LINKS),
    ),
    min_size=1,
    max_size=3,
)


@settings(max_examples=200, deadline=None)
@given(MACHINES, st.sampled_from(["throughput", "latency"]), st.data())
def test_equal_to_brute_force(figures, objective, data):
    on = [
        made_machine(f"m{number}", usable=usable, read=read, layer_seconds=overhead, link=over)
        for number, (usable, read, overhead, over) in enumerate(figures)
    ]
    stages = data.draw(st.integers(1, len(on)))
    every = []
    for order in permutations(on, stages):
        for cuts in combinations(range(1, len(DEMO.layers)), stages - 1):
            runs = pairwise((0, *cuts, len(DEMO.layers)))
            tried = Plan(
                model=DEMO,
                demand=ONE,
                objective=objective,
                stages=tuple(Stage(machine, *run) for machine, run in zip(order, runs, strict=True)),
            )
            if all(need_bytes(DEMO, ONE, s.first, s.end) <= s.machine.usable for s in tried.stages):
                seconds = tried.round_seconds()
                slowest = max(map(tried.step_seconds, tried.stages))
                every.append((slowest, seconds) if objective == "throughput" else (seconds,))
    found = plan(DEMO, on, ONE, objective=objective, stages=stages)
    assert isinstance(found, Impossible) == (not every)
    if isinstance(found, Plan):
        check(found)
        seconds, slowest = found.round_seconds(), max(map(found.step_seconds, found.stages))
        best = min(every)
        assert (slowest if objective == "throughput" else seconds) == pytest.approx(best[0], rel=1e-6)
    else:
        assert max(found.lacks) > 0
        needs = [need_bytes(DEMO, ONE, s.first, s.end) - s.machine.usable for s in found.best.stages]
        assert list(found.lacks) == needs
        assert "does not fit" in advice(found, on, ())


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("name", ["nano", "super", "ultra"])
def test_equal_machines_are_never_worse_than_the_even_split(name, count, objective):
    model = model_cost(name, "8:32")
    found = planned(model, machines((f"{count} x M3 Ultra 1024",), link("10gbe")), objective=objective)
    check(found)
    cuts = [len(model.layers) * number // count for number in range(count + 1)]
    even = Plan(
        model=model,
        demand=ONE,
        objective=objective,
        stages=tuple(Stage(stage.machine, *run) for stage, run in zip(found.stages, pairwise(cuts), strict=True)),
    )
    assert max(map(found.step_seconds, found.stages)) <= max(map(even.step_seconds, even.stages))
    assert found.round_seconds() == pytest.approx(even.round_seconds())


def test_the_fast_machine_gets_more_and_the_small_one_what_it_holds():
    on = machines(("M3 Ultra 512", "M4 Max 128", "M1 Max 32"), link("thunderbolt"))
    found = planned(model_cost("super", "8:32"), on)
    check(found)
    layers = {stage.machine.chip: stage.end - stage.first for stage in found.stages}
    assert layers["M3 Ultra"] > layers["M4 Max"] > layers["M1 Max"]
    # 24 GB usable of 32 GiB hold a seventh of the model
    assert found.resident_bytes(next(s for s in found.stages if s.machine.chip == "M1 Max")) < 25.8e9


def test_eight_different_machines():
    texts = ("M3 Ultra 512", "M4 Max 128", "M1 Ultra 128", "M2 Max 96", "M3 Max 128", "M4 Pro 64", "M5 Max 128")
    on = machines((*texts, "M2 Ultra 192"), link("thunderbolt"))
    found = planned(model_cost("super", "8:32"), on)
    check(found)
    slowest = max(map(found.step_seconds, found.stages))
    # nobody waits much for anybody: a layer more or less is 5 % here
    assert min(map(found.step_seconds, found.stages)) > 0.9 * slowest


def test_latency_avoids_the_slow_link_and_the_slow_machine():
    on = (made_machine("a"), made_machine("b", link=WIFI), made_machine("c", read=5e11))
    names = [stage.machine.name for stage in planned(DEMO, on, 2, "latency").stages]
    assert sorted(names) == ["a", "c"]
    assert planned(DEMO, on, 1, "latency").stages[0].machine.name in ("a", "b")


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_links_of_one_name_are_told_apart(order):
    on = [made_machine(name, link=Link("made", us / 1e6, 1e9)) for name, us in (("a", 100), ("b", 101), ("far", 50000))]
    found = planned(DEMO, [on[number] for number in order], 2, "latency")
    assert {stage.machine.name for stage in found.stages} == {"a", "b"}


def test_hops_are_those_of_the_slower_link():
    a, b = made_machine("a"), made_machine("b", link=WIFI)
    assert hop_seconds(a, b, 10**6) == hop_seconds(b, a, 10**6) == 0.01 + 0.01
    assert hop_seconds(a, a, 10**6) == 0.0


def test_one_machine_may_run_several_stages_in_its_one_memory():
    total = need_bytes(DEMO, ONE, 0, 14)
    found = planned(DEMO, (made_machine(usable=total),) * 3)
    assert len(found.stages) == 3
    assert found.cycle_seconds() == pytest.approx(found.round_seconds())  # the stages take turns
    lacking = plan(DEMO, (made_machine(usable=total - 1),) * 3, ONE, objective="throughput", stages=3)
    assert isinstance(lacking, Impossible)
    assert lacking.lacks == (1, 0, 0)


def test_what_helps_is_true():
    """Each piece of advice, followed, gives a plan."""
    on = machines(("2 x M4 Max 64",), link("thunderbolt"))
    demand = Demand(context=32768, sequences=4)
    found = plan(model_cost("super", "8:32"), on, demand, objective="throughput", stages=2)
    assert isinstance(found, Impossible)
    said = advice(found, on, [(bits, lambda bits=bits: model_cost("super", bits)) for bits in ("8:64", "6:64")])
    assert "--quantize 6:64" in said
    assert "3 such machines" in said
    assert "iogpu.wired_limit_mb" in said
    planned(model_cost("super", "6:64"), on, demand=demand)
    planned(model_cost("super", "8:32"), machines(("3 x M4 Max 64",), link("thunderbolt")), demand=demand)
    for number, stage in enumerate(found.best.stages):
        lack = need_bytes(found.best.model, demand, stage.first, stage.end) - stage.machine.usable
        assert found.lacks[number] == lack > 0
        assert f"stage {number} (layers {stage.first} to {stage.end - 1}" in said


def test_a_shorter_context_helps_where_state_is_too_much():
    demand = Demand(context=262144, sequences=8)
    need = need_bytes(DEMO, Demand(context=40000, sequences=8), 0, 14)
    on = (made_machine(usable=need),)
    found = plan(DEMO, on, demand, objective="throughput", stages=1)
    assert isinstance(found, Impossible)
    assert "--context 32768" in advice(found, on, ())


@pytest.mark.parametrize("stages", [0, 15])
def test_more_stages_than_layers_is_the_users_mistake(stages):
    with pytest.raises(ConfigError, match=f"{stages} stages for 14 layers.*--stages 1 to 14"):
        plan(DEMO, (made_machine(),) * 15, ONE, objective="throughput", stages=stages)
    with pytest.raises(ConfigError, match=f"{stages} stages for 14 layers"):
        equal_stages(DEMO, stages)


def test_more_stages_than_machines_is_the_users_mistake():
    with pytest.raises(ConfigError, match="3 stages for 2 machines"):
        plan(DEMO, (made_machine("a"), made_machine("b")), ONE, objective="throughput", stages=3)


@pytest.mark.parametrize("stages", [1, 2, 3, 14])
def test_equal_stages_read_about_the_same(stages):
    runs = equal_stages(DEMO, stages)
    assert [layer for first, end in runs for layer in range(first, end)] == list(range(14))

    def slowest(cuts):
        return max(sum(p.step_bytes(1, 1) for p in DEMO.pieces(*run)) for run in pairwise((0, *cuts, 14)))

    every = map(slowest, combinations(range(1, 14), stages - 1))
    assert slowest([end for _, end in runs[:-1]]) == pytest.approx(min(every), abs=stages)


@pytest.mark.parametrize(
    ("quantize", "batch", "rate"), [("8:32", 1, 180.6), ("4:64", 1, 239.8), ("8:32", 4, 360.0), ("4:64", 4, 391.0)]
)
def test_predictions_are_what_was_measured_on_one_h200(quantize, batch, rate):
    """README and docs/log.md; the table's figures for this card were taken from these runs."""
    demand = Demand(context=1024, sequences=batch, batch=batch)
    found = planned(model_cost("super", quantize), machines(("H200",), link("local")), demand=demand)
    assert batch / found.round_seconds() == pytest.approx(rate, rel=0.10)
