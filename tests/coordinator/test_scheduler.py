"""Admission, batches and leases, as values."""

import pytest

from coordinator.request import Request, Token
from coordinator.scheduler import MOST_MEMBERS, Scheduler
from worker.protocol import Chunk, Close, Lease, Open, Sampled, Sampling, Tokens


def scheduler(**changes):
    made = Scheduler(**({"stages": 2, "chunk": 4, "lease": 8, "max_running": 3} | changes))
    made.begin(1)
    return made


def request(prompt=3, max_tokens=5, **sampling):
    return Request(
        id="r", prompt=tuple(range(prompt)), max_tokens=max_tokens, sampling=Sampling(**sampling), stop_tokens=(7,)
    )


def tokens(*sampled, batch=None):
    return Tokens(epoch=1, batch=batch, tokens=tuple(Sampled(*one) for one in sampled))


def kinds(orders):
    return [type(order) for order in orders]


def test_a_prompt_goes_out_in_chunks_after_its_opening():
    orders = scheduler().submit(1, request(prompt=10))
    assert kinds(orders) == [Open, Chunk, Chunk, Chunk]
    assert [(c.first, len(c.tokens), c.final) for c in orders[1:]] == [(0, 4, False), (4, 4, False), (8, 2, True)]
    assert (orders[0].limit, orders[0].prompt) == (15, ())


def test_only_the_repetition_penalty_sends_the_prompt_along():
    assert scheduler().submit(1, request(repetition_penalty=1.2))[0].prompt == (0, 1, 2)


def test_requests_beyond_the_limit_wait_until_a_place_is_really_free():
    made = scheduler()
    for number in (1, 2, 3):
        assert made.submit(number, request())
    assert made.submit(4, request()) == []
    assert kinds(made.cancel(1)) == [Close]
    assert (made.running, made.waiting) == (3, 1)
    assert kinds(made.closed(1)) == [Open, Chunk]
    assert (made.running, made.waiting) == (3, 0)


def test_the_first_token_joins_a_batch_and_grants_a_lease():
    made = scheduler()
    made.submit(1, request())
    assert made.sampled(tokens((1, 3, 50))) == ([(1, Token(50))], [Lease(epoch=1, batch=0, requests=(1,), steps=8)])
    made.submit(2, request())
    assert made.sampled(tokens((2, 3, 51)))[1] == [Lease(epoch=1, batch=1, requests=(2,), steps=8)]


def test_a_lease_is_renewed_at_half_time():
    made = scheduler()
    made.submit(1, request(max_tokens=50))
    made.sampled(tokens((1, 3, 50)))
    renewed = [kinds(made.sampled(tokens((1, 4 + step, 9), batch=0))[1]) for step in range(6)]
    assert renewed == [[], [], [], [Lease], [], []]


def test_a_finished_request_is_closed_and_says_why():
    made = scheduler()
    made.submit(1, request())
    deliveries, orders = made.sampled(tokens((1, 3, 7, "stop")))
    assert (deliveries, orders) == ([(1, Token(7, "stop"))], [Close(epoch=1, request=1)])
    assert made.sampled(tokens((1, 4, 9), batch=0)) == ([], [])


def test_repeated_tokens_are_not_delivered_and_missing_ones_are_seen():
    made = scheduler()
    made.submit(1, request())
    made.sampled(tokens((1, 3, 50)))
    assert made.sampled(tokens((1, 3, 50))) == ([], [])
    assert not made.misses(tokens((1, 4, 9), batch=0))
    assert made.misses(tokens((1, 5, 9), batch=0))


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_batches_hold_what_the_kernels_take_and_fill_up_one_a_stage_first(stages):
    made = scheduler(stages=stages, max_running=20)
    sizes = []
    for number in range(1, 21):
        made.submit(number, request())
        made.sampled(tokens((number, 3, 50)))
        sizes.append([len(members) for members in made._members])
    assert all(max(size) <= MOST_MEMBERS for size in sizes)
    first = min(stages * MOST_MEMBERS, 20) - 1
    assert sum(sizes[first][:stages]) == first + 1


def test_after_a_halt_nothing_runs_until_the_next_epoch():
    made = scheduler(max_running=1)
    made.submit(1, request())
    made.submit(2, request())
    assert made.halt() == [1]
    assert made.submit(3, request()) == []
    assert [order.request for order in made.begin(2)] == [2, 2]
