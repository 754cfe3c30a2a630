"""The gate with real sockets: who comes in, and what is counted and logged of those who do not."""

import socket as plain_socket
import time

import pytest
import zmq

from worker.links.gate import GONE, REASONS, UNFINISHED, Gate
from worker.links.keyring import Keyring
from worker.links.sockets import bind, prepare

WAIT_SECONDS = 10.0


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.fixture
def keyring(tmp_path):
    keyring = Keyring(tmp_path / "server")
    keyring.new()
    return keyring


@pytest.fixture
def gate(context, keyring):
    gate = Gate(context, keyring)
    yield gate
    gate.close()


@pytest.fixture
def server(context, gate, keyring):
    """A guarded socket, and its endpoint."""
    with context.socket(zmq.ROUTER) as socket:
        socket.setsockopt(zmq.LINGER, 0)
        prepare(socket, "tcp://127.0.0.1:*")
        gate.guard(socket, name="control", allowed=lambda key: gate.host_of(key) is not None)
        yield socket, bind(socket, "tcp://127.0.0.1:*")


@pytest.fixture
def client(tmp_path):
    """Makes clients in a context of their own, with keys of their own."""
    contexts, sockets = [], []

    def make(endpoint, server_key, *, keyring=None):
        contexts.append(zmq.Context())
        socket = contexts[-1].socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        prepare(socket, endpoint)
        if server_key is not None:
            Gate(contexts[-1], keyring or host(tmp_path / f"client-{len(contexts)}")).present(socket, server_key)
        socket.connect(endpoint)
        socket.send(b"hello")
        sockets.append(socket)
        return socket

    yield make
    for socket in sockets:
        socket.close()
    for context in contexts:
        context.term()


def host(directory):
    keyring = Keyring(directory)
    keyring.new()
    return keyring


def until(condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def hears(socket, milliseconds=300):
    return bool(socket.poll(milliseconds))


def test_a_listed_key_comes_in_and_is_told_apart(server, gate, keyring, client, tmp_path):
    socket, endpoint = server
    studio = host(tmp_path / "studio")
    keyring.add("studio-1", studio.public)
    client(endpoint, keyring.public, keyring=studio)
    assert hears(socket, 5000)
    identity, message = socket.recv_multipart(copy=False)
    assert message.bytes == b"hello"
    assert message.get("User-Id") == studio.public
    assert gate.counts.total() == 0


def test_an_unknown_key_is_refused_counted_and_logged(server, gate, keyring, client, tmp_path, caplog):
    socket, endpoint = server
    stranger = host(tmp_path / "stranger")
    client(endpoint, keyring.public, keyring=stranger)
    until(lambda: gate.counts["unknown_key"])
    assert not hears(socket)
    [line] = caplog.messages
    assert line == f"control: refused 127.0.0.1: its key {stranger.public} is not one that may come in"
    assert {reason for reason in REASONS if gate.counts[reason]} == {"unknown_key"}


@pytest.mark.parametrize(
    ("wrong_key", "reason", "says"),
    [(None, "no_key", "it shows no key"), (True, "wrong_server_key", "it expects another public key of this host")],
    ids=["plaintext", "wrong server key"],
)
def test_a_handshake_that_fails_is_refused_counted_and_logged(
    server, gate, client, tmp_path, caplog, wrong_key, reason, says
):
    socket, endpoint = server
    key = wrong_key and host(tmp_path / "other").public
    line = f"control: refused 127.0.0.1: {says}"
    tries = 0
    while not any(said.startswith(line) for said in caplog.messages) or tries < 2:
        # each may be gone before its address can be read, and then is logged without
        assert tries < 50
        tries += 1
        client(endpoint, key)
        until(lambda: gate.counts.total() >= tries)  # noqa: B023 - called at once
    assert not hears(socket)
    assert {reason for reason in REASONS if gate.counts[reason]} == {reason}
    assert sum(said.startswith(line) for said in caplog.messages) == 1, "a line a minute for each peer"


@pytest.mark.parametrize(
    "words", [b"GET / HTTP/1.0\r\n\r\n", b"\xff" * 64, b""], ids=["http", "half a greeting", "silence"]
)
def test_what_is_not_zeromq_is_refused_and_counted(server, gate, words, caplog):
    _, endpoint = server
    with plain_socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2]))) as stranger:
        stranger.sendall(words)
        until(lambda: gate.counts.total())
    [line] = caplog.messages
    seen = ("127.0.0.1", GONE) if words else ("127.0.0.1",)  # what is wrong at once may be gone before it is looked at
    assert line in [f"control: refused {peer}: {why}" for peer in seen for why in UNFINISHED.values()]


def test_a_client_of_another_server_hears_nothing_from_this_one(context, client, tmp_path):
    """What a client sends is for the server whose key it knows."""
    with context.socket(zmq.ROUTER) as impostor:
        impostor.setsockopt(zmq.LINGER, 0)
        endpoint = bind(impostor, "tcp://127.0.0.1:*")
        client(endpoint, host(tmp_path / "true").public)
        assert not hears(impostor)


def test_a_revoked_key_does_not_come_in_again(server, gate, keyring, client, tmp_path):
    socket, endpoint = server
    studio = host(tmp_path / "studio")
    keyring.add("studio-1", studio.public)
    client(endpoint, keyring.public, keyring=studio).close()
    Keyring(keyring.directory).revoke("studio-1")  # another process: `stageline keys revoke`
    client(endpoint, keyring.public, keyring=studio)
    until(lambda: gate.counts["unknown_key"])


def test_nobody_comes_in_while_the_list_cannot_be_read(server, gate, keyring, client, tmp_path, caplog):
    socket, endpoint = server
    studio = host(tmp_path / "studio")
    keyring.add("studio-1", studio.public)
    (keyring.directory / "allowed").chmod(0o666)
    (keyring.directory / "allowed").write_text("studio-1 " + studio.public + "\n\n")
    client(endpoint, keyring.public, keyring=studio)
    until(lambda: gate.counts["unknown_key"] >= 1)
    client(endpoint, keyring.public, keyring=studio)
    until(lambda: gate.counts["unknown_key"] >= 2)
    assert sum("other users can write it" in line for line in caplog.messages) == 1, "a line a minute"
    assert not hears(socket)


def test_sockets_come_and_go(context, gate, keyring, client, tmp_path):
    """A guarded socket a epoch: each with a list of its own, and nothing left of the old ones."""
    for name in ("one", "two"):
        neighbour = host(tmp_path / name)
        with context.socket(zmq.ROUTER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            gate.guard(socket, name=name, allowed=neighbour.public.__eq__)
            endpoint = bind(socket, "tcp://127.0.0.1:*")
            client(endpoint, keyring.public, keyring=neighbour)
            assert hears(socket, 5000)
    until(lambda: not gate._doors)
    assert gate.counts.total() == 0
