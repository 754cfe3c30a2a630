"""TCP sockets between hosts: endpoints of both kinds of addresses, and a limit to what a peer may send."""

import socket as plain_socket

import pytest
import zmq

from worker.links.sockets import bind, prepare, tcp

WAIT_MILLISECONDS = 5000


def can_six():
    try:
        with plain_socket.socket(plain_socket.AF_INET6) as socket:
            socket.bind(("::1", 0))
    except OSError:
        return False
    return True


SIX = pytest.param("::1", marks=pytest.mark.skipif(not can_six(), reason="this machine has no IPv6"))


@pytest.fixture
def context():
    with zmq.Context() as context:
        yield context


@pytest.mark.parametrize("address", ["127.0.0.1", SIX])
def test_both_kinds_of_addresses(context, address):
    with context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        prepare(server, tcp(address))
        endpoint = bind(server, tcp(address))
        assert endpoint == tcp(address, int(endpoint.rpartition(":")[2]))
        prepare(client, endpoint)
        client.connect(endpoint)
        client.send(b"hello")
        assert server.poll(WAIT_MILLISECONDS)
        assert server.recv_multipart()[1] == b"hello"


def test_a_frame_above_the_limit_ends_the_connection(context):
    with context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        prepare(server, tcp("127.0.0.1"), limit=1000)
        endpoint = bind(server, tcp("127.0.0.1"))
        client.setsockopt(zmq.LINGER, 0)
        monitor = client.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        client.connect(endpoint)
        client.send(bytes(1000))
        assert server.poll(WAIT_MILLISECONDS)
        client.send(bytes(1001))
        assert monitor.poll(WAIT_MILLISECONDS)
        assert len(server.recv_multipart()[1]) == 1000
        assert not server.poll(100)
        client.disable_monitor()
        monitor.close()


def test_what_is_local_is_left_alone(context, tmp_path):
    with context.socket(zmq.ROUTER) as server:
        endpoint = f"ipc://{tmp_path}/socket"
        prepare(server, endpoint)
        assert bind(server, endpoint) == endpoint
        assert server.getsockopt(zmq.MAXMSGSIZE) == -1
        assert server.getsockopt(zmq.HEARTBEAT_IVL) == 0
