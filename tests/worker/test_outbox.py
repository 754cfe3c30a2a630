"""What may overtake a piece of a prompt on its way out, and what must not."""

import pytest

from worker.outbox import Outbox
from worker.protocol import Activations, Close, Drop, Open, Sampling, Save, Segment


def rows(request, batch, batches=0):
    return Activations(
        epoch=1, batch=batch, segments=(Segment(request, 0, 1, True),), dtype="float32", shape=(1, 2), batches=batches
    )


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


def holding(batches):
    """A piece of request 9 is held."""
    sent = Sent()
    outbox = Outbox(sent)
    outbox.piece(rows(9, None, batches), memoryview(b""))
    return outbox, sent


def opening(request):
    return Open(epoch=1, request=request, sampling=Sampling(), stop_tokens=(), limit=9)


def test_where_nothing_decodes_a_piece_goes_at_once():
    assert holding(0)[1] == ["piece"]


def test_every_batch_makes_a_step_first():
    outbox, sent = holding(2)
    for batch in (1, 0, 1):
        assert outbox.step(rows(1, batch), memoryview(b"")) == 7.0
    assert sent == ["batch 1", "batch 0", "piece", "batch 1"]


def test_the_next_piece_does_not_overtake():
    outbox, sent = holding(2)
    outbox.piece(rows(8, None, 0), memoryview(b""))
    assert sent == ["piece", "piece"]


def test_a_request_that_ends_is_not_waited_for_here_or_later():
    outbox, sent = holding(2)
    for request in (1, 2):
        outbox.message(Close(epoch=1, request=request))
    assert sent == ["Close", "Close", "piece"]
    assert sent.batches == 0


@pytest.mark.parametrize("request_", [9, 5], ids=["of the piece", "opened after it"])
def test_a_close_does_not_overtake_what_it_closes(request_):
    outbox, sent = holding(2)
    outbox.message(opening(5))
    outbox.message(Close(epoch=1, request=request_))
    assert sent == ["piece", "Open", "Close"]


def test_a_request_that_begins_and_what_is_said_of_snapshots_stay_behind_the_piece():
    outbox, sent = holding(1)
    outbox.message(Save(epoch=1, request=9, first=1, names=("a",)))
    outbox.message(Drop(epoch=1, snapshot="a"))
    outbox.message(opening(5))
    assert sent == []
    outbox.step(rows(1, 0), memoryview(b""))
    assert sent == ["batch 0", "piece", "Save", "Drop", "Open"]


def test_a_snapshot_of_another_request_keeps_its_place():
    """It belongs between two steps of that request."""
    outbox, sent = holding(2)
    outbox.message(Save(epoch=1, request=1, first=1, names=("a",)))
    outbox.step(rows(1, 0), memoryview(b""))
    assert sent == ["piece", "Save", "batch 0"]
