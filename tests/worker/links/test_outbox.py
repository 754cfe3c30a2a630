"""What may overtake a piece of a prompt on its way out, and what must not."""

import pytest

from worker.links.outbox import Outbox
from worker.protocol import Activations, Close, Drop, Open, Sampling, Save, Segment


def rows(requests, batch, batches=()):
    segments = tuple(Segment(request, 0, 1, True) for request in requests)
    return Activations(
        epoch=1, batch=batch, segments=segments, dtype="float32", shape=(len(requests), 2), batches=batches
    )


NOTHING = memoryview(b"")


class Sent(list):
    """The batches, pieces and messages that went out, as words."""

    def __call__(self, message, payload=None):
        if isinstance(message, Activations):
            assert payload is not None
            self.append("piece" if message.batch is None else f"batch {message.batch}")
            self.batches = message.batches
        else:
            self.append(type(message).__name__)
        return 7.0


def holding(batches, before=()):
    """A piece of request 9 is held, after steps of `before`: batches and their requests."""
    sent = Sent()
    outbox = Outbox(sent)
    for batch, requests in before:
        outbox.step(rows(requests, batch), NOTHING)
    outbox.piece(rows([9], None, batches), NOTHING)
    del sent[: len(before)]
    return outbox, sent


def closing(request):
    return Close(epoch=1, request=request)


def opening(request):
    return Open(epoch=1, request=request, sampling=Sampling(), stop_tokens=(), limit=9)


def test_where_nothing_decodes_a_piece_goes_at_once():
    assert holding(())[1] == ["piece"]


def test_every_batch_makes_a_step_first():
    outbox, sent = holding((0, 1))
    for batch in (1, 2, 1, 0, 1):
        assert outbox.step(rows([batch], batch), NOTHING) == 7.0
    assert sent == ["batch 1", "batch 2", "batch 1", "batch 0", "piece", "batch 1"]


def test_the_next_piece_does_not_overtake():
    outbox, sent = holding((0, 1))
    outbox.piece(rows([8], None), NOTHING)
    assert sent == ["piece", "piece"]


def test_a_batch_without_requests_is_not_waited_for_here_or_later():
    outbox, sent = holding((0, 1), before=[(0, [1]), (1, [2, 3])])
    for request in (2, 1, 3):
        outbox.message(closing(request))
    assert sent == ["Close", "Close", "Close", "piece"]
    assert sent.batches == ()


def test_a_batch_that_ends_after_its_step_is_not_waited_for_later():
    outbox, sent = holding((0, 1), before=[(0, [1]), (1, [2])])
    outbox.step(rows([1], 0), NOTHING)
    outbox.message(closing(1))
    outbox.step(rows([2], 1), NOTHING)
    assert sent == ["batch 0", "Close", "batch 1", "piece"]
    assert sent.batches == (1,)


def test_a_batch_that_loses_a_request_is_waited_for():
    outbox, sent = holding((0, 1), before=[(0, [1, 2]), (1, [3])])
    outbox.message(closing(1))
    outbox.step(rows([2], 0), NOTHING)
    assert sent == ["Close", "batch 0"]
    outbox.step(rows([3], 1), NOTHING)
    assert sent == ["Close", "batch 0", "batch 1", "piece"]
    assert set(sent.batches) == {0, 1}


def test_a_batch_whose_last_request_moves_to_another_is_not_waited_for():
    outbox, sent = holding((0, 1), before=[(0, [1, 2]), (1, [3])])
    outbox.message(closing(1))
    outbox.step(rows([3, 2], 1), NOTHING)
    assert sent == ["Close", "batch 1", "piece"]
    assert sent.batches == (1,)


def test_a_batch_whose_requests_are_not_known_yet_is_waited_for_until_one_ends_that_may_be_its_own():
    outbox, sent = holding((0, 1), before=[(0, [1, 2])])
    outbox.step(rows([1, 2], 0), NOTHING)
    assert sent == ["batch 0"]
    outbox.message(closing(3))
    assert sent == ["batch 0", "Close", "piece"]


@pytest.mark.parametrize("request_", [9, 5], ids=["of the piece", "opened after it"])
def test_a_close_does_not_overtake_what_it_closes(request_):
    outbox, sent = holding((0, 1))
    outbox.message(opening(5))
    outbox.message(closing(request_))
    assert sent == ["piece", "Open", "Close"]


def test_a_request_that_begins_and_what_is_said_of_snapshots_stay_behind_the_piece():
    outbox, sent = holding((0,))
    outbox.message(Save(epoch=1, request=9, first=1, names=("a",)))
    outbox.message(Drop(epoch=1, snapshot="a"))
    outbox.message(opening(5))
    assert sent == []
    outbox.step(rows([1], 0), NOTHING)
    assert sent == ["batch 0", "piece", "Save", "Drop", "Open"]


def test_a_snapshot_of_another_request_keeps_its_place():
    """It belongs between two steps of that request."""
    outbox, sent = holding((0, 1))
    outbox.message(Save(epoch=1, request=1, first=1, names=("a",)))
    outbox.step(rows([1], 0), NOTHING)
    assert sent == ["piece", "Save", "batch 0"]
