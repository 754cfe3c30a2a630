"""Messages survive the wire; anything else is refused before it does harm."""

from contextlib import suppress

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import ProtocolError
from worker.links.wire import check_activations, decode, encode
from worker.protocol import (
    Ack,
    Activations,
    Assign,
    BackOnLink,
    Chunk,
    Closed,
    Drop,
    FromWorker,
    Held,
    Lease,
    Listening,
    OnLink,
    Open,
    Receipt,
    Sampled,
    Sampling,
    Save,
    Saved,
    Segment,
    StageTimes,
    Tokens,
    ToWorker,
)

SNAPSHOT = f"128-{'a' * 32}"
SEGMENTS = (Segment(1, 0, 2, False), Segment(2, 7, 1, True))
ACTIVATIONS = Activations(epoch=3, batch=0, segments=SEGMENTS, dtype="bfloat16", shape=(3, 4))
EXAMPLES = [
    (Open(epoch=1, request=2, sampling=Sampling(seed=2**64 - 1), stop_tokens=(2, 11), limit=9), ToWorker),
    (Chunk(epoch=1, request=2, first=0, tokens=(5, 6), final=True), ToWorker),
    (Lease(epoch=1, batch=0, requests=(2, 3), steps=32), ToWorker),
    (Assign(stage=0, stages=2, model="m", first=0, end=4, quantize="8:32"), ToWorker),
    (Tokens(epoch=1, batch=None, tokens=(Sampled(2, 9, 77, "stop"), Sampled(3, 4, 5))), FromWorker),
    (Closed(epoch=1, request=2, times=(StageTimes(0, 1, 0.5, 3, 0.25, 0.0, 0.0, 1.5, 0.125),)), FromWorker),
    (Receipt(sequence=5, held_seconds=0.25), BackOnLink),
    (Save(epoch=1, request=2, first=8, names=(SNAPSHOT, f"{SNAPSHOT}-answer"), nbytes=(5,)), OnLink),
    (Saved(epoch=1, request=2, snapshot=SNAPSHOT, nbytes=(5, 6)), FromWorker),
    (Drop(epoch=1, snapshot=SNAPSHOT), ToWorker),
    (Listening(epoch=1, endpoint="ipc://x", held=(Held(SNAPSHOT, 5),)), FromWorker),
    (ACTIVATIONS, OnLink),
]


@pytest.mark.parametrize(("message", "union"), EXAMPLES, ids=lambda value: type(value).__name__)
def test_round_trip(message, union):
    assert decode(encode(message), union) == message


def test_golden_bytes_of_version_2():
    message = Tokens(epoch=1, batch=None, tokens=(Sampled(2, 9, 77, "stop"),))
    assert (
        encode(message).hex()
        == "84a46b696e64a6746f6b656e73a565706f636801a56261746368c0a6746f6b656e73919402094da473746f70"
    )


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x80",
        encode(Ack(sequence=1)),
        encode(ACTIVATIONS)[:-1],
        encode(ACTIVATIONS) + b"\x00",
        msgpack.packb({"kind": "ack", "sequence": "1"}),
        msgpack.packb({"kind": "tokens", "epoch": 1, "batch": 0, "tokens": [], "extra": 1}),
        msgpack.packb({"kind": b"tokens"}),
        msgpack.packb({1: 2}),
        msgpack.packb({"kind": "tokens", "epoch": 1, "batch": 0, "tokens": [[1, 2]]}),
        b"\x91" * 2000,
        encode(Drop(epoch=1, snapshot="../../etc/passwd")),
        encode(Drop(epoch=1, snapshot=f"{SNAPSHOT}\n")),
    ],
)
def test_anything_else_is_refused(frame):
    with pytest.raises(ProtocolError):
        decode(frame, OnLink)


@given(st.binary(max_size=200))
def test_noise_never_raises_anything_but_a_protocol_error(noise):
    for frame in (noise, encode(ACTIVATIONS)[: len(noise)] + noise):
        with suppress(ProtocolError):
            decode(frame, OnLink | FromWorker | ToWorker)


@pytest.mark.parametrize(
    ("changed", "payload_bytes"),
    [
        ({}, 23),
        ({}, 25),
        ({"shape": (4, 4)}, 32),
        ({"shape": (3, 5)}, 30),
        ({"dtype": "float32"}, 24),
        ({"segments": ()}, 24),
        ({"segments": (Segment(1, 0, 4, True), Segment(2, 0, -1, True))}, 24),
    ],
)
def test_header_and_payload_must_agree(changed, payload_bytes):
    fields = {"epoch": 3, "batch": 0, "segments": SEGMENTS, "dtype": "bfloat16", "shape": (3, 4)} | changed
    with pytest.raises(ProtocolError):
        check_activations(Activations(**fields), payload_bytes, hidden_size=4)


def test_a_right_payload_passes():
    check_activations(ACTIVATIONS, 24, hidden_size=4)
