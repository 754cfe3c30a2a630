"""What every TCP socket of a cluster is set to: a peer that is gone is noticed, one that floods is hung up on."""

import zmq

from worker.links.wire import MAX_MESSAGE_BYTES

BEAT_MILLISECONDS = 1000  # ZeroMQ's own heartbeats; its thread sends them
SILENCE_MILLISECONDS = 3000  # without anything from the peer: the connection is lost
HANDSHAKE_MILLISECONDS = 2000
RECONNECT_MILLISECONDS = 100
RECONNECT_LIMIT_MILLISECONDS = 2000

AnySocket = zmq.Socket[bytes]


def is_tcp(endpoint: str) -> bool:
    """Whether the endpoint can be reached from other hosts, and so what is set here is worth while."""
    return endpoint.startswith("tcp://")


def prepare(socket: AnySocket, endpoint: str, *, limit: int = MAX_MESSAGE_BYTES) -> None:
    """Before a TCP socket is bound or connected; nothing is done for another kind.

    A frame of more than `limit` bytes ends the connection before memory is taken for it. So does one that takes
    longer than the silence: what the peer sends counts when a whole frame of it is there.
    """
    if not is_tcp(endpoint):
        return
    socket.setsockopt(zmq.HEARTBEAT_IVL, BEAT_MILLISECONDS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MILLISECONDS)
    socket.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MILLISECONDS)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MILLISECONDS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_LIMIT_MILLISECONDS)
    socket.setsockopt(zmq.TCP_KEEPALIVE, 1)
    socket.setsockopt(zmq.MAXMSGSIZE, limit)
    if "[" in endpoint:
        socket.setsockopt(zmq.IPV6, 1)


def tcp(address: str, port: int | str = "*") -> str:
    """The endpoint of an IP address; "*" is any free port."""
    return f"tcp://[{address}]:{port}" if ":" in address else f"tcp://{address}:{port}"


def bind(socket: AnySocket, endpoint: str) -> str:
    """Bind; returns the real endpoint, which has a number where "*" was. Raises zmq.ZMQError."""
    socket.bind(endpoint)
    return socket.getsockopt_string(zmq.LAST_ENDPOINT) if is_tcp(endpoint) else endpoint
