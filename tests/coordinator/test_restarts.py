"""When a lost stage is started again."""

from coordinator.restarts import MOST_FAILURES, STEADY_SECONDS, Restarts


def restarts():
    return Restarts(2, backoff=0.5, limit=3.0)


def test_the_first_restart_is_immediate_and_further_ones_take_longer():
    policy = restarts()
    policy.ready(0.0)
    delays = []
    for now in range(1, 7):
        delays.append(policy.lost(0, float(now)))
        policy.ready(float(now))
    assert delays == [0.0, 0.5, 1.0, 2.0, 3.0, 3.0]


def test_half_a_minute_of_service_forgets_failures():
    policy = restarts()
    policy.ready(0.0)
    assert [policy.lost(0, 1.0), policy.lost(0, 2.0)] == [0.0, 0.5]
    policy.ready(3.0)
    assert policy.lost(0, 4.0 + STEADY_SECONDS) == 0.0


def test_stages_are_counted_apart():
    policy = restarts()
    assert [policy.lost(0, 0.0), policy.lost(1, 0.0), policy.lost(0, 0.0)] == [0.0, 0.0, 0.5]


def test_a_stage_that_never_gets_ready_is_given_up():
    policy = restarts()
    assert [policy.lost(1, 0.0) is None for _ in range(MOST_FAILURES)] == [False] * (MOST_FAILURES - 1) + [True]


def test_getting_ready_keeps_a_stage_from_being_given_up():
    policy = restarts()
    for now in range(20):
        assert policy.lost(0, float(now)) is not None
        policy.ready(float(now))
