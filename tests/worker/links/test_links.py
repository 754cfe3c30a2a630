"""Data links over real sockets: what arrives, what is refused, credit, and nothing left of an old epoch."""

import time

import pytest
import zmq

from worker.errors import ProtocolError
from worker.links.links import Links
from worker.links.window import ACK_BYTES, ACK_MESSAGES, WINDOW_BYTES, WINDOW_MESSAGES, Window
from worker.links.wire import encode
from worker.protocol import Ack, Activations, Close, Segment
from worker.telemetry.hops import Hops

HEADER = Activations(epoch=1, batch=0, segments=(Segment(1, 0, 1, True),), dtype="float32", shape=(1, 2))


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def pair(context, tmp_path):
    """Stages 0 and 1 of two, linked in both directions."""
    links = [
        Links(context, stage=stage, stages=2, epoch=1, runtime=tmp_path, hops=Hops(lambda seconds: None))
        for stage in range(2)
    ]
    links[0].connect(links[1].endpoint)
    links[1].connect(links[0].endpoint)
    yield links
    for link in links:
        link.close()
    assert list(tmp_path.iterdir()) == []


def receive(links, count=1, seconds=3.0):
    arrived = []
    deadline = time.monotonic() + seconds
    while len(arrived) < count and time.monotonic() < deadline:
        arrived += links.receive(time.monotonic(), woken=False)
        time.sleep(0.001)
    return arrived


def until(condition, seconds=3.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_messages_arrive_in_order_with_their_tensors(pair):
    upstream, downstream = pair
    upstream.send(HEADER, memoryview(b"12345678"))
    upstream.send(Close(epoch=1, request=1))
    first, second = receive(downstream, 2)
    assert (first.sequence, first.message, bytes(first.payload)) == (1, HEADER, b"12345678")
    assert (second.sequence, second.message, bytes(second.payload)) == (2, Close(epoch=1, request=1), b"")


def test_credit_ends_and_comes_back_with_what_is_applied(pair):
    upstream, downstream = pair
    for _ in range(WINDOW_MESSAGES):
        assert upstream.has_room
        upstream.send(Close(epoch=1, request=1))
    assert not upstream.has_room
    arrived = receive(downstream, WINDOW_MESSAGES)
    downstream.acknowledge(arrived[3])
    until(lambda: upstream.receive(time.monotonic(), woken=False) == [] and upstream.has_room)


@pytest.mark.parametrize(("messages", "payload"), [(ACK_MESSAGES, 8), (1, ACK_BYTES)], ids=["messages", "bytes"])
def test_an_acknowledgement_is_sent_when_it_frees_much_credit(pair, messages, payload):
    upstream, downstream = pair
    for _ in range(messages):
        upstream.send(HEADER, memoryview(bytes(payload)))
    unapplied = upstream.unapplied
    for received in receive(downstream, messages):
        assert upstream.receive(time.monotonic(), woken=False) == []
        assert upstream.unapplied == unapplied
        downstream.acknowledge(received)
    until(lambda: upstream.receive(time.monotonic(), woken=False) == [] and upstream.unapplied == 0)


def test_credit_counts_bytes_too():
    window = Window()
    window.sent(WINDOW_BYTES)
    assert not window.has_room
    window.applied(1)
    assert window.has_room


@pytest.mark.parametrize("sender_waits", [True, False], ids=["waiting sender", "busy sender"])
@pytest.mark.parametrize("receiver_waits", [True, False], ids=["waiting receiver", "busy receiver"])
def test_a_hop_is_measured_between_two_that_wait(context, tmp_path, receiver_waits, sender_waits):
    measured = []
    upstream, downstream = (
        Links(context, stage=stage, stages=2, epoch=1, runtime=tmp_path, hops=Hops(measured.append))
        for stage in range(2)
    )
    upstream.connect(downstream.endpoint)
    began = upstream.send(HEADER, memoryview(b"12345678"))
    downstream.sockets[0].poll(3000)
    assert len(downstream.receive(time.monotonic(), woken=receiver_waits)) == 1
    time.sleep(0.05)  # its step
    downstream.send_receipt()
    assert bool(upstream.sockets[1].poll(3000 if receiver_waits else 100)) == receiver_waits
    assert upstream.receive(time.monotonic(), woken=sender_waits) == []
    assert len(measured) == (receiver_waits and sender_waits)
    assert all(0 < hop <= (time.monotonic() - began - 0.05) / 2 for hop in measured)
    for links in (upstream, downstream):
        links.close()


@pytest.mark.parametrize(
    ("identity", "frames", "reason"),
    [
        (b"stage-0/1", [b"\x02" + bytes(7), encode(HEADER)], "message 2 from stage-0/1 came after 0"),
        (b"stage-0/1", [encode(HEADER)], "1 frames"),
        (b"stage-0/1", [b"\x01" + bytes(7), b"\xc1"], "undecodable"),
        (b"stage-0/1", [b"\x01" + bytes(7), encode(Ack(sequence=1))], "ack"),
        (b"stage-0/0", [b"\x01" + bytes(7), encode(HEADER)], "this link belongs to stage-0/1"),
        (b"stranger", [b"\x01" + bytes(7), encode(HEADER)], "this link belongs to stage-0/1"),
    ],
    ids=["gap", "frames", "noise", "another kind", "an old epoch", "stranger"],
)
def test_what_is_not_the_neighbours_next_message_breaks_the_link(context, tmp_path, identity, frames, reason):
    links = Links(context, stage=1, stages=2, epoch=1, runtime=tmp_path, hops=Hops(lambda seconds: None))
    with context.socket(zmq.DEALER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.ROUTING_ID, identity)
        socket.connect(links.endpoint)
        socket.send_multipart(frames)
        with pytest.raises(ProtocolError, match=reason):
            assert receive(links)
    links.close()


def test_nothing_of_an_old_epoch_arrives_in_a_new_one(context, tmp_path):
    upstream, old = (
        Links(context, stage=stage, stages=2, epoch=1, runtime=tmp_path, hops=Hops(lambda seconds: None))
        for stage in range(2)
    )
    upstream.connect(old.endpoint)
    upstream.send(HEADER, memoryview(b"12345678"))
    old.close()
    new = Links(context, stage=1, stages=2, epoch=2, runtime=tmp_path, hops=Hops(lambda seconds: None))
    upstream.send(HEADER, memoryview(b"12345678"))
    assert new.endpoint != old.endpoint
    assert receive(new, seconds=0.2) == []
    for links in (upstream, new):
        links.close()
