"""Data links over TCP with CURVE: who may connect, when a stage is linked, and what is said when a link is lost."""

import random
import socket as plain_socket
import threading
import time

import pytest
import zmq

from worker.errors import ClusterError, LinkLostError
from worker.links.connection import CONNECT_SECONDS, GRACE_SECONDS, NO_ANSWER, Connection
from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.links.links import Links
from worker.links.sockets import BEAT_MILLISECONDS, SILENCE_MILLISECONDS, bind, prepare
from worker.protocol import Activations, Close, Segment
from worker.telemetry.hops import Hops

HEADER = Activations(epoch=1, batch=0, segments=(Segment(1, 0, 1, True),), dtype="float32", shape=(1, 2))
HERE = "127.0.0.1"
WAIT_SECONDS = 10.0


class Host:
    """A context, keys, and the links of one stage of two."""

    def __init__(self, directory, stage):
        self.context = zmq.Context()
        self.keyring = Keyring(directory)
        self.keyring.new()
        self.gate = Gate(self.context, self.keyring)
        self.stage, self.runtime = stage, directory
        self.links = None

    def listen(self, *, address=HERE, peer="", gate=True):
        self.links = Links(
            self.context,
            stage=self.stage,
            stages=2,
            epoch=1,
            runtime=self.runtime,
            hops=Hops(lambda seconds: None),
            address=address,
            peer=peer,
            gate=self.gate if gate else None,
        )
        return self.links.endpoint

    def receive(self, after=0.0):
        return self.links.receive(time.monotonic() + after, woken=False)

    def close(self):
        if self.links is not None:
            self.links.close()
        self.gate.close()
        self.context.term()


@pytest.fixture
def hosts(tmp_path):
    """Of stages 0 and 1."""
    hosts = [Host(tmp_path / f"host-{stage}", stage) for stage in range(2)]
    yield hosts
    for host in hosts:
        host.close()


def until(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return value


def linked(host):
    host.receive()
    return host.links.is_linked


@pytest.mark.parametrize("keys", [True, False], ids=["keys", "no keys"])
def test_messages_pass_between_hosts(hosts, keys):
    up, down = hosts
    peers = [host.keyring.public if keys else "" for host in hosts]
    up.listen(peer=peers[1], gate=keys)
    endpoint = down.listen(peer=peers[0], gate=keys)
    assert endpoint.startswith("tcp://127.0.0.1:")
    up.links.connect(endpoint, peers[1])
    until(lambda: linked(up))
    up.links.send(HEADER, memoryview(b"12345678"))
    (received,) = until(down.receive)
    assert (received.message, bytes(received.payload)) == (HEADER, b"12345678")
    down.links.acknowledge(received)
    assert [host.gate.counts.total() for host in hosts] == [0, 0]


def test_only_the_neighbour_may_connect(hosts, tmp_path, caplog):
    """Another host of the cluster has no business at this link."""
    up, down = hosts
    endpoint = down.listen(peer=up.keyring.public)
    other = Host(tmp_path / "other", 0)
    hosts.append(other)
    other.listen(address="")
    other.links.connect(endpoint, down.keyring.public)
    until(lambda: down.gate.counts["unknown_key"] and other.links.sockets[-1].poll(0))
    assert not linked(other)
    with pytest.raises(LinkLostError, match=f"no connection to stage 1 at {endpoint} after 10 s: it refuses this host"):
        other.receive(after=CONNECT_SECONDS)
    assert f"stage 1: refused 127.0.0.1: its key {other.keyring.public} is not one that may come in" in caplog.messages


def test_a_stage_on_one_host_is_linked_when_its_neighbour_answers(hosts):
    """And its connection is not watched any more: that costs nothing while it runs."""
    up, down = hosts
    up.listen(address="")
    before = up.links.sockets
    endpoint = down.listen(address="")
    assert endpoint.startswith("ipc://")
    assert not linked(up)
    up.links.connect(endpoint)
    assert up.links.sockets != before
    until(lambda: linked(up))
    assert up.links.sockets == before
    assert linked(up)


def test_one_stage_has_no_neighbour(hosts):
    hosts[0].listen(address="")
    hosts[0].links.connect(None)
    assert linked(hosts[0])


def test_a_neighbour_that_does_not_answer_is_named(hosts):
    up, _ = hosts
    up.listen(address="")
    with plain_socket.create_server((HERE, 0)) as silent:
        endpoint = f"tcp://{HERE}:{silent.getsockname()[1]}"
        up.links.connect(endpoint, up.keyring.public)
        assert up.receive(after=CONNECT_SECONDS - 0.5) == []
        with pytest.raises(LinkLostError) as raised:
            up.receive(after=CONNECT_SECONDS)
    assert raised.value.message == f"no connection to stage 1 at {endpoint} after 10 s: {NO_ANSWER}"
    assert up.receive(after=2 * CONNECT_SECONDS) == [], "it is said once"


def test_a_lost_connection_is_told_after_a_moment(hosts):
    up, down = hosts
    up.listen(peer=down.keyring.public)
    endpoint = down.listen(peer=up.keyring.public)
    up.links.connect(endpoint, down.keyring.public)
    until(lambda: linked(up))
    down.links.close()
    down.links = None
    assert until(lambda: up.links.sockets[-1].poll(0)), "the worker wakes up"
    assert up.receive() == []
    assert up.receive(after=GRACE_SECONDS - 0.2) == []
    with pytest.raises(LinkLostError, match=f"^the connection to stage 1 at {endpoint} was lost$"):
        up.receive(after=GRACE_SECONDS)


def test_a_connection_that_comes_back_was_lost_all_the_same():
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        server = context.socket(zmq.ROUTER)
        endpoint = bind(server, f"tcp://{HERE}:*")
        prepare(dealer, endpoint)
        connection = Connection(dealer, endpoint, "stage 1", time.monotonic())
        dealer.connect(endpoint)
        until(lambda: connection.follow(time.monotonic()) or connection.is_up)
        server.close()
        assert until(lambda: connection.monitor.poll(0))
        with context.socket(zmq.ROUTER) as again:
            again.bind(endpoint)
            dealer.setsockopt(zmq.LINGER, 0)
            dealer.send(b"message")
            assert again.poll(5000)
            connection.follow(time.monotonic())
            with pytest.raises(LinkLostError):
                connection.follow(time.monotonic() + GRACE_SECONDS)


class Cable:
    """Carries bytes between a client and a server until it is cut; then both still believe in their connection.

    With a `rate`, no more bytes a second than that from client to server.
    """

    def __init__(self, port, rate=None):
        self.server = plain_socket.create_server((HERE, 0))
        self.rate = rate
        self.endpoint = f"tcp://{HERE}:{self.server.getsockname()[1]}"
        self.cut = threading.Event()
        self.sockets = []
        threading.Thread(target=self._accept, args=(port,), daemon=True).start()

    def _accept(self, port):
        client, _ = self.server.accept()
        self.sockets = [client, plain_socket.create_connection((HERE, port))]
        for source, target in (self.sockets, self.sockets[::-1]):
            threading.Thread(target=self._carry, args=(source, target), daemon=True).start()

    def _carry(self, source, target):
        try:
            while data := source.recv(65536):
                if not self.cut.is_set():
                    target.sendall(data)
                if self.rate is not None and source is self.sockets[0]:
                    time.sleep(len(data) / self.rate)
        except OSError:
            return

    def close(self):
        for socket in (self.server, *self.sockets):
            socket.close()


def test_a_cut_cable_is_noticed(hosts):
    up, down = hosts
    up.listen(peer=down.keyring.public)
    endpoint = down.listen(peer=up.keyring.public)
    cable = Cable(int(endpoint.rpartition(":")[2]))
    up.links.connect(cable.endpoint, down.keyring.public)
    until(lambda: linked(up))
    up.links.send(Close(epoch=1, request=1))
    until(down.receive)
    cable.cut.set()
    began = time.monotonic()
    with pytest.raises(LinkLostError):
        until(lambda: up.receive() and False)
    assert time.monotonic() - began < 1 + SILENCE_MILLISECONDS / 1000 + GRACE_SECONDS + 2
    cable.close()


def test_a_tensor_may_take_longer_than_the_silence_that_ends_a_connection(hosts):
    """ZeroMQ takes a peer for silent while one frame of it takes longer than its heartbeats allow."""
    up, down = hosts
    up.listen(peer=down.keyring.public)
    endpoint = down.listen(peer=up.keyring.public)
    tensor = random.Random(0).randbytes((20 << 20) + 2)
    seconds = 1.5 * (BEAT_MILLISECONDS + SILENCE_MILLISECONDS) / 1000
    cable = Cable(int(endpoint.rpartition(":")[2]), rate=len(tensor) / seconds)
    up.links.connect(cable.endpoint, down.keyring.public)
    until(lambda: linked(up))
    began = time.monotonic()
    up.links.send(HEADER, memoryview(tensor))
    (received,) = until(lambda: up.receive() or down.receive())
    assert time.monotonic() - began > seconds / 2
    assert bytes(received.payload) == tensor
    cable.close()


@pytest.mark.parametrize(("nbytes", "frames"), [(1 << 20, 1), ((1 << 20) + 1, 2)], ids=["1 MiB", "one byte more"])
def test_only_a_large_tensor_is_cut(hosts, nbytes, frames):
    up, down = hosts
    with up.context.socket(zmq.ROUTER) as server:
        up.listen(address="", gate=False)
        up.links.connect(bind(server, f"tcp://{HERE}:*"))
        up.links.send(HEADER, memoryview(bytes(nbytes)))
        assert server.poll(WAIT_SECONDS * 1000)
        assert len(server.recv_multipart()) == 3 + frames  # who it is from, sequence, message


def test_an_address_of_another_host_is_named(hosts):
    with pytest.raises(ClusterError, match=r"stage 0 cannot listen at 192\.0\.2\.1: .* check its `ips`"):
        hosts[0].listen(address="192.0.2.1")
