"""How long a message takes to the other hosts and back."""

import statistics
import time
from collections.abc import Sequence

import zmq

from worker.agent.messages import Peer, RoundTrip
from worker.errors import ConfigError
from worker.links.gate import Gate
from worker.links.sockets import AnySocket, prepare

PINGS = 20
PING_BYTES = 8192  # about a hidden state
PATIENCE_SECONDS = 5.0  # for the first answer: a peer lets us in when it was surveyed too
ATTEMPT_SECONDS = 0.5


def round_trips(context: zmq.Context[AnySocket], peers: Sequence[Peer], gate: Gate | None) -> tuple[RoundTrip, ...]:
    """To every peer, one after the other so that they do not disturb each other."""
    return tuple(_round_trip(context, peer, gate) for peer in peers)


def _round_trip(context: zmq.Context[AnySocket], peer: Peer, gate: Gate | None) -> RoundTrip:
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_SECONDS:
        # a connection that was refused is not tried again: a new one each time
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            prepare(socket, peer.echo)
            try:
                if gate is not None:
                    gate.present(socket, peer.key)
                socket.connect(peer.echo)
            except zmq.ZMQError as error:
                return _failed(peer, f"cannot be reached at {peer.echo}: {error.strerror}")
            except ConfigError as error:  # this host's keys were taken away
                return _failed(peer, error.message)
            if _ping(socket, ATTEMPT_SECONDS) is None:
                continue
            answered: list[float] = []
            while len(answered) < PINGS:
                if (seconds := _ping(socket, PATIENCE_SECONDS)) is None:  # the rest would take as long each
                    lost = f"{peer.echo} did not answer message {len(answered) + 1} of {PINGS}"
                    return _failed(peer, f"{lost} within {PATIENCE_SECONDS:g} s: check the network")
                answered.append(seconds)
        return RoundTrip(peer=peer.name, seconds=statistics.median(answered), nbytes=PING_BYTES)
    fix = "check the network, its firewall, and on macOS the Local Network permission"
    return _failed(peer, f"no answer from {peer.echo} within {PATIENCE_SECONDS:g} s: {fix}")


def _ping(socket: AnySocket, patience: float) -> float | None:
    """Seconds until the answer; None if it does not come."""
    began = time.perf_counter()
    socket.send(bytes(PING_BYTES))
    if not socket.poll(int(patience * 1000)):
        return None
    socket.recv()
    return time.perf_counter() - began


def _failed(peer: Peer, problem: str) -> RoundTrip:
    return RoundTrip(peer=peer.name, seconds=0.0, nbytes=PING_BYTES, problem=problem)
