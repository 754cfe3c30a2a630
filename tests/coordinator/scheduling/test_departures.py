"""When to come again."""

import pytest

from coordinator.scheduling.departures import Departures


def departures(*times):
    made = Departures()
    for time in times:
        made.ended(time)
    return made


@pytest.mark.parametrize("times", [(), (5.0,), (9.0, 9.0)], ids=["none", "one", "all now"])
def test_without_a_rate_it_is_a_guess(times):
    assert departures(*times).seconds_until(30, 9.0) == 2


def test_what_waits_now_is_gone_then():
    made = departures(0.0, 2.0, 4.0)
    assert made.per_second(4.0) == 0.5
    assert made.seconds_until(7, 4.0) == 14
    assert made.seconds_until(7, 8.0) == 28  # nothing left in the meantime


def test_it_is_neither_at_once_nor_for_ever():
    assert departures(0.0, 0.001).seconds_until(1, 0.001) == 1
    assert departures(0.0, 1000.0).seconds_until(500, 1000.0) == 60


def test_only_the_last_ones_count():
    made = departures(*range(100), *(100 + i / 10 for i in range(40)))
    assert made.per_second(103.9) == pytest.approx(10.0)
