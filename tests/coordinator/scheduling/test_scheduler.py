"""Admission, leases and deadlines, as values."""

import pytest
from msgspec.structs import replace

from coordinator.request import Request, Token
from coordinator.scheduling.budget import Budget, Room
from coordinator.scheduling.pace import Pace
from coordinator.scheduling.scheduler import Bounds, Scheduler
from worker.errors import DeadlineError, NoRoomError, QueueFullError
from worker.footprint import GROWTH, Footprint
from worker.protocol import Chunk, Close, Lease, Open, Sampled, Sampling, Tokens


def scheduler(*, stages=2, chunk=4, lease=8, rooms=(), **bounds):
    bounds = {"max_running": 3, "max_waiting": 9, "queue_timeout": 10.0, "request_timeout": 60.0} | bounds
    made = Scheduler(
        stages=stages, lease=lease, bounds=Bounds(**bounds), budget=Budget(), pace=Pace(most=chunk, pause=1.0)
    )
    made.begin(1, tuple(rooms))
    return made


def room(limit, *, constant=10, growing=1):
    return Room("stage 0", Footprint(constant, growing), limit, "a setting")


def request(prompt=3, max_tokens=5, **sampling):
    return Request(
        id="r", prompt=tuple(range(prompt)), max_tokens=max_tokens, sampling=Sampling(**sampling), stop_tokens=(7,)
    )


def tokens(*sampled, batch=None):
    return Tokens(epoch=1, batch=batch, tokens=tuple(Sampled(*one) for one in sampled))


def kinds(orders):
    return [type(order) for order in orders]


def test_a_prompt_goes_out_in_chunks_after_its_opening():
    orders = scheduler().submit(1, request(prompt=10), 0.0)
    assert kinds(orders) == [Open, Chunk, Chunk, Chunk]
    assert [(c.first, len(c.tokens), c.final) for c in orders[1:]] == [(0, 4, False), (4, 4, False), (8, 2, True)]
    assert (orders[0].limit, orders[0].prompt) == (15, ())


def test_only_the_repetition_penalty_sends_the_prompt_along():
    assert scheduler().submit(1, request(repetition_penalty=1.2), 0.0)[0].prompt == (0, 1, 2)


def test_requests_beyond_the_limit_wait_until_a_place_is_really_free():
    made = scheduler()
    for number in (1, 2, 3):
        assert made.submit(number, request(), 0.0)
    assert made.submit(4, request(), 0.0) == []
    assert kinds(made.cancel(1)) == [Close]
    assert (made.running, made.waiting) == (3, 1)
    assert kinds(made.closed(1, 1.0)) == [Open, Chunk]
    assert (made.running, made.waiting) == (3, 0)


def test_the_first_token_joins_a_batch_and_grants_a_lease():
    made = scheduler()
    made.submit(1, request(), 0.0)
    assert made.sampled(tokens((1, 3, 50))) == ([(1, Token(50))], [Lease(epoch=1, batch=0, requests=(1,), steps=8)])
    made.submit(2, request(), 0.0)
    assert made.sampled(tokens((2, 3, 51)))[1] == [Lease(epoch=1, batch=1, requests=(2,), steps=8)]


def test_a_lease_is_renewed_at_half_time():
    made = scheduler()
    made.submit(1, request(max_tokens=50), 0.0)
    made.sampled(tokens((1, 3, 50)))
    renewed = [kinds(made.sampled(tokens((1, 4 + step, 9), batch=0))[1]) for step in range(6)]
    assert renewed == [[], [], [], [Lease], [], []]


def test_a_finished_request_is_closed_and_says_why():
    made = scheduler()
    made.submit(1, request(), 0.0)
    deliveries, orders = made.sampled(tokens((1, 3, 7, "stop")))
    assert (deliveries, orders) == ([(1, Token(7, "stop"))], [Close(epoch=1, request=1)])
    assert made.sampled(tokens((1, 4, 9), batch=0)) == ([], [])


def test_repeated_tokens_are_not_delivered_and_missing_ones_are_seen():
    made = scheduler()
    made.submit(1, request(), 0.0)
    made.sampled(tokens((1, 3, 50)))
    assert made.sampled(tokens((1, 3, 50))) == ([], [])
    assert not made.misses(tokens((1, 4, 9), batch=0))
    assert made.misses(tokens((1, 5, 9), batch=0))


def test_after_a_halt_nothing_runs_until_the_next_epoch():
    made = scheduler(max_running=1)
    made.submit(1, request(), 0.0)
    made.submit(2, request(), 0.0)
    assert made.halt() == [1]
    assert made.submit(3, request(), 0.0) == []
    assert [order.request for order in made.begin(2, ())[1]] == [2, 2]


def test_a_longer_queue_than_allowed_is_refused_with_the_rate_at_which_places_become_free():
    made = scheduler(max_running=1, max_waiting=2)
    for number in (1, 2, 3):
        made.submit(number, request(), 0.0)
    with pytest.raises(QueueFullError, match=r"1 requests are running and 2 wait.*try again in 2 s") as refused:
        made.submit(4, request(), 0.0)
    assert refused.value.retry_after == 2  # nothing has ended yet
    assert not made.holds(4)
    for number, now in ((1, 10.0), (2, 20.0)):
        made.cancel(number)
        made.closed(number, now)
    for number in (5, 6):
        made.submit(number, request(), 20.0)
    with pytest.raises(QueueFullError) as refused:
        made.submit(7, request(), 20.0)
    assert refused.value.retry_after == 20  # two wait, one leaves in 10 seconds


def test_no_queue_at_all():
    made = scheduler(max_running=1, max_waiting=0)
    assert made.submit(1, request(), 0.0)
    with pytest.raises(QueueFullError):
        made.submit(2, request(), 0.0)


def test_what_does_not_fit_now_waits_and_is_not_overtaken():
    made = scheduler(rooms=[room(30)])
    assert made.submit(1, request(), 0.0)  # 11 bytes
    assert made.submit(2, request(max_tokens=9 * GROWTH), 0.0) == []  # 20 bytes
    assert made.submit(3, request(), 0.0) == []
    made.cancel(1)
    assert [order.request for order in made.closed(1, 1.0)] == [2, 2]
    assert made.waiting == 1
    made.cancel(2)
    assert [order.request for order in made.closed(2, 2.0)] == [3, 3]


def test_when_the_first_in_the_queue_gives_up_the_next_one_is_looked_at():
    made = scheduler(rooms=[room(30)])
    made.submit(1, request(), 0.0)
    made.submit(2, request(max_tokens=9 * GROWTH), 0.0)
    made.submit(3, request(), 0.0)
    assert [order.request for order in made.cancel(2)] == [3, 3]


def test_what_can_never_fit_is_refused_with_the_arithmetic():
    made = scheduler(rooms=[room(30_000, constant=10_000, growing=1000)])
    with pytest.raises(NoRoomError) as refused:
        made.submit(1, request(max_tokens=21 * GROWTH), 0.0)
    assert refused.value.message == (
        "5378 positions, prompt and answer, need 32 kB of state on stage 0 (10 kB of Mamba layers and 22 kB of keys "
        "and values), which has room for 30 kB (a setting); the most is 5120 positions"
    )
    assert made.submit(1, request(prompt=1, max_tokens=20 * GROWTH), 0.0)


def test_an_answer_that_nobody_limited_gets_the_room_that_there_is():
    made = scheduler(rooms=[room(30_000, constant=10_000, growing=1000)])
    opening = made.submit(1, replace(request(max_tokens=21 * GROWTH), open_ended=True), 0.0)[0]
    assert opening.limit == 20 * GROWTH + 1
    with pytest.raises(NoRoomError):
        made.submit(2, replace(request(prompt=20 * GROWTH + 1), open_ended=True), 0.0)


def test_what_waited_for_larger_stages_fails_when_they_come_back_smaller():
    made = scheduler(max_running=1)
    made.submit(1, request(), 0.0)
    made.submit(2, request(), 0.0)
    made.halt()
    failures, orders = made.begin(2, (room(5),))
    assert ([(number, type(error)) for number, error in failures], orders) == ([(2, NoRoomError)], [])


def test_a_place_is_free_when_every_stage_has_let_go_and_not_before():
    made = scheduler(rooms=[room(11)])
    made.submit(1, request(), 0.0)
    made.submit(2, request(), 0.0)
    assert kinds(made.cancel(1)) == [Close]
    assert made.holds(1)
    assert kinds(made.closed(1, 1.0)) == [Open, Chunk]
    assert not made.holds(1)
    assert made.closed(1, 2.0) == []


def test_deadlines_name_the_limit_and_how_far_it_came():
    made = scheduler(max_running=1)
    made.submit(1, request(), 0.0)
    made.submit(2, request(), 1.0)
    made.sampled(tokens((1, 3, 50)))
    assert made.expire(10.9) == ([], [])
    (failure,), orders = made.expire(11.0)
    assert (failure[0], orders, made.waiting) == (2, [], 0)
    assert isinstance(failure[1], DeadlineError)
    assert failure[1].message == (
        "no place became free in 10.0 s, the limit is 10 s (queue_timeout): 1 requests are running, 1 wait; "
        "try again later"
    )
    (failure,), orders = made.expire(60.0)
    assert (failure[0], orders) == (1, [Close(epoch=1, request=1)])
    assert failure[1].message == (
        "not done after 60.0 s, the limit is 60 s (request_timeout): 1 of at most 5 tokens were generated; "
        "ask for fewer"
    )
    assert made.expire(99.0) == ([], [])


def test_a_slow_stage_makes_the_pieces_of_the_next_prompt_smaller():
    made = scheduler(chunk=512)
    made.pace.heard(1, 1000, 10.0)  # 100 rows a second
    orders = made.submit(1, request(prompt=200), 0.0)
    assert [len(order.tokens) for order in orders[1:]] == [64, 64, 64, 8]


def test_who_is_left_spreads_over_all_batches_at_once():
    made = scheduler(max_running=4)
    for number in range(1, 5):
        made.submit(number, request(max_tokens=50), 0.0)
        made.sampled(tokens((number, 3, 50)))
    # 1 and 3 step together, and so do 2 and 4
    made.cancel(1)
    orders = made.cancel(3)
    assert orders[1:] == [
        Lease(epoch=1, batch=0, requests=(4,), steps=8),
        Lease(epoch=1, batch=1, requests=(2,), steps=8),
    ]
