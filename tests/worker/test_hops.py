"""Hops: measured by one clock, from answers to a few messages."""

import pytest

from worker.protocol import Activations, Close, Segment, Tokens
from worker.telemetry.hops import RECEIPT_EVERY, Hops


@pytest.fixture
def measured():
    return []


def decode(batch=0):
    return Activations(epoch=1, batch=batch, segments=(Segment(1, 0, 1, True),), dtype="float32", shape=(1, 2))


def test_half_of_the_round_trip_without_what_the_receiver_held(measured):
    hops = Hops(measured.append)
    hops.handed(1, 100, 10.0)
    hops.handed(2, 50, 20.0)
    hops.answered(2, 0.5, 21.5)
    assert (measured, hops.mean, hops.nbytes) == ([0.5], 0.5, 150)


def test_an_answer_to_what_is_forgotten_or_was_never_sent_is_no_hop(measured):
    hops = Hops(measured.append)
    hops.answered(3, 0.0, 1.0)
    hops.handed(1, 1, 1.0)
    hops.begin()
    hops.answered(1, 0.0, 2.0)
    assert (measured, hops.mean, hops.nbytes) == ([], 0.0, 1)


def test_one_decode_message_in_sixteen_is_answered():
    hops = Hops(lambda seconds: None)
    answers = [hops.answers(decode()) for _ in range(2 * RECEIPT_EVERY + 1)]
    assert [index for index, answered in enumerate(answers) if answered] == [0, RECEIPT_EVERY, 2 * RECEIPT_EVERY]


@pytest.mark.parametrize(
    "message",
    [decode(batch=None), Tokens(epoch=1, batch=None, tokens=()), Close(epoch=1, request=1)],
    ids=["prompt", "a prompt's token", "close"],
)
def test_nothing_but_decode_is_answered(message):
    assert not Hops(lambda seconds: None).answers(message)
