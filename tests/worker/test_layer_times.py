"""Measuring by kind of layer: when, and that it bounds its own cost."""

import pytest

from worker.telemetry.layer_times import COST, LEAST_SECONDS, LEAST_STEPS, LayerTimes


def test_seconds_add_up_by_kind():
    times = LayerTimes()
    for _ in range(2):
        times.measured({"mamba": 0.25, "ends": 0.5}, compute=1.0, median=1.0, now=0.0)
    assert (times.seconds, times.steps) == ({"mamba": 0.5, "ends": 1.0}, 2)


def test_not_before_there_is_a_median():
    times = LayerTimes()
    assert [times.is_due(steps, now=1e9) for steps in (0, LEAST_STEPS - 1, LEAST_STEPS)] == [False, False, True]


@pytest.mark.parametrize(("compute", "pause"), [(0.07, COST * 0.02), (0.04, LEAST_SECONDS)], ids=["slower", "faster"])
def test_a_step_that_took_longer_is_paid_for_by_a_pause(compute, pause):
    times = LayerTimes()
    times.measured({"moe": compute}, compute=compute, median=0.05, now=100.0)
    assert not times.is_due(LEAST_STEPS, now=100.0 + 0.99 * pause)
    assert times.is_due(LEAST_STEPS, now=100.0 + 1.01 * pause)
