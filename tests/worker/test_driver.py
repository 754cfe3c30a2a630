"""What stage 0 runs next."""

import pytest

from worker.driver import Driver
from worker.protocol import Chunk, Lease, Open, Sampled, Sampling, Tokens


def opened(*requests, run_ahead=0, limit=100):
    driver = Driver(run_ahead=run_ahead)
    for request in requests:
        driver.open(Open(epoch=1, request=request, sampling=Sampling(), stop_tokens=(), limit=limit))
    return driver


def chunk(request, first, count, final=True):
    return Chunk(epoch=1, request=request, first=first, tokens=tuple(range(count)), final=final)


def tokens(batch, *sampled):
    return Tokens(epoch=1, batch=batch, tokens=tuple(Sampled(*one) for one in sampled))


def prefilled(*requests, **options):
    """Requests whose prompt of 3 is done and whose first token is known."""
    driver = opened(*requests, **options)
    for request in requests:
        driver.chunk(chunk(request, 0, 3), 0.0)
        driver.next()
        driver.tokens(tokens(None, (request, 3, 50 + request)), 0.0)
    driver.lease(Lease(epoch=1, batch=0, requests=requests, steps=4), 0.0)
    return driver


def rows(step):
    return None if step is None else [(segment.request, segment.first, segment.count) for segment in step.segments]


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one():
    driver = opened(1, 2)
    for first in range(0, 40, 10):
        driver.chunk(chunk(1, first, 10, final=first == 30), 0.0)
    driver.chunk(chunk(2, 0, 2), 0.0)
    order = [rows(driver.next()) for _ in range(5)]
    assert order == [[(1, 0, 10)], [(2, 0, 2)], [(1, 10, 10)], [(1, 20, 10)], [(1, 30, 10)]]
    assert driver.next() is None


def test_between_two_chunks_every_batch_makes_a_step():
    driver = prefilled(1, 2, 3)
    for batch, members in ((0, (1, 2)), (1, (3,))):
        driver.lease(Lease(epoch=1, batch=batch, requests=members, steps=4), 0.0)
    driver.open(Open(epoch=1, request=4, sampling=Sampling(), stop_tokens=(), limit=100))
    for first in (0, 5, 10):
        driver.chunk(chunk(4, first, 5), 0.0)
    steps = [rows(driver.next()) for _ in range(4)]
    assert steps == [[(4, 0, 5)], [(1, 3, 1), (2, 3, 1)], [(3, 3, 1)], [(4, 5, 5)]]
    assert not driver.has_work()  # the stage stays free for the tokens that are on their way
    driver.tokens(tokens(0, (1, 4, 7), (2, 4, 8)), 0.0)
    assert rows(driver.next()) == [(1, 4, 1), (2, 4, 1)]
    assert driver.next() is None
    driver.tokens(tokens(1, (3, 4, 9)), 0.0)
    assert [rows(driver.next()) for _ in range(2)] == [[(3, 4, 1)], [(4, 10, 5)]]


@pytest.mark.parametrize("end", ["closed", "finished", "no lease"])
def test_no_chunk_waits_for_a_batch_that_makes_no_step(end):
    driver = prefilled(1)
    driver.open(Open(epoch=1, request=2, sampling=Sampling(), stop_tokens=(), limit=100))
    for first in (0, 5):
        driver.chunk(chunk(2, first, 5), 0.0)
    assert rows(driver.next()) == [(2, 0, 5)]
    match end:
        case "closed":
            driver.close(1)
        case "finished":
            assert rows(driver.next()) == [(1, 3, 1)]
            driver.tokens(tokens(0, (1, 4, 7, "stop")), 0.0)
        case _:
            driver.lease(Lease(epoch=1, batch=0, requests=(1,), steps=0), 0.0)
    assert rows(driver.next()) == [(2, 5, 5)]


def test_a_member_that_changes_its_batch_steps_there_when_its_last_token_is_known():
    driver = prefilled(1, 2)
    driver.next()
    driver.lease(Lease(epoch=1, batch=0, requests=(1,), steps=4), 0.0)
    driver.lease(Lease(epoch=1, batch=1, requests=(2,), steps=4), 0.0)
    assert driver.next() is None
    driver.tokens(tokens(0, (1, 4, 7), (2, 4, 8)), 0.0)
    assert [rows(driver.next()) for _ in range(3)] == [[(1, 4, 1)], [(2, 4, 1)], None]


def test_a_batch_waits_for_the_tokens_of_all_its_members():
    driver = prefilled(1, 2)
    first = driver.next()
    assert (rows(first), first.tokens) == ([(1, 3, 1), (2, 3, 1)], (51, 52))
    assert driver.next() is None
    driver.tokens(tokens(0, (1, 4, 7), (2, 4, 8)), 0.0)
    assert driver.next().tokens == (7, 8)


def test_running_ahead_uses_the_tokens_on_the_device_once():
    driver = prefilled(1, run_ahead=1)
    assert [driver.next().tokens, driver.next().tokens, driver.next()] == [(51,), None, None]
    driver.tokens(tokens(0, (1, 4, 7)), 0.0)
    assert driver.next().tokens is None


def test_another_set_of_members_waits_for_what_is_in_flight():
    driver = prefilled(1, 2, run_ahead=1)
    driver.next()
    driver.lease(Lease(epoch=1, batch=0, requests=(1,), steps=4), 0.0)
    assert driver.next() is None
    driver.tokens(tokens(0, (1, 4, 7), (2, 4, 8)), 0.0)
    assert rows(driver.next()) == [(1, 4, 1)]


@pytest.mark.parametrize("finish", ["stop", "length"])
def test_a_finished_member_is_fed_no_more(finish):
    driver = prefilled(1, 2)
    driver.next()
    driver.tokens(tokens(0, (1, 4, 7, finish), (2, 4, 8)), 0.0)
    assert rows(driver.next()) == [(2, 4, 1)]


def test_nothing_is_fed_beyond_the_limit():
    driver = prefilled(1, run_ahead=1, limit=5)
    assert rows(driver.next()) == [(1, 3, 1)]  # samples position 4, the last one
    assert not driver.has_work()


def test_a_lease_ends_and_is_renewed():
    driver = prefilled(1)
    driver.lease(Lease(epoch=1, batch=0, requests=(1,), steps=1), 0.0)
    driver.next()
    driver.tokens(tokens(0, (1, 4, 7)), 0.0)
    assert driver.next() is None
    driver.lease(Lease(epoch=1, batch=0, requests=(1,), steps=1), 0.0)
    assert rows(driver.next()) == [(1, 4, 1)]


def test_repeated_tokens_change_nothing():
    driver = prefilled(1)
    driver.next()
    for _ in range(2):
        driver.tokens(tokens(0, (1, 4, 7)), 0.0)
    assert rows(driver.next()) == [(1, 4, 1)]
    driver.tokens(tokens(0, (1, 4, 7)), 0.0)
    assert driver.next() is None


def test_a_closed_request_leaves_its_chunks_and_its_batch():
    driver = prefilled(1, 2)
    driver.open(Open(epoch=1, request=3, sampling=Sampling(), stop_tokens=(), limit=9))
    driver.chunk(chunk(3, 0, 4), 0.0)
    for request in (1, 3):
        driver.close(request)
    assert [rows(driver.next()), driver.next()] == [[(2, 3, 1)], None]
