"""A stage's data links in one epoch: input from the upstream neighbour, output to the downstream one.

One DEALER (upstream, connects) faces one ROUTER (downstream, binds); the frames are sequence number, message[, tensor].
Between hosts a large tensor is several frames, since ZeroMQ hears a peer by whole frames. Acknowledgements and receipts
flow back on the same pair. Every epoch has its own sockets and endpoints, so nothing of an old epoch can arrive in a
new one. Between stages of one host that is a socket file, between hosts TCP with CURVE.
"""

import contextlib
import os
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from worker.errors import ClusterError, ProtocolError
from worker.links.connection import Connection
from worker.links.gate import Gate
from worker.links.sockets import AnySocket, bind, is_tcp, prepare, tcp
from worker.links.window import ACK_BYTES, ACK_MESSAGES, WINDOW_MESSAGES, Window
from worker.links.wire import MAX_TENSOR_BYTES, decode, encode
from worker.protocol import Ack, BackOnLink, Message, OnLink, Receipt
from worker.telemetry.hops import Hops

_SEQUENCE = struct.Struct("<Q")
_PIECE_BYTES = 1 << 20  # of a tensor between hosts: one has to arrive within the silence of `worker.links.sockets`


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the upstream neighbour, read at `at`; `payload` is the tensor's bytes, empty if there is none."""

    sequence: int
    message: Any
    payload: memoryview
    at: float


class Links:
    """Bound on creation, at `endpoint`; `epoch` is theirs for life. `hops` measures what they carry.

    `address` is this host's if the upstream neighbour is on another one, and `peer` that neighbour's public key; `gate`
    is None in a cluster without keys. `sockets` is what to poll; it is another tuple when that has changed. Raises
    ClusterError if this host cannot listen at `address`.
    """

    def __init__(
        self,
        context: zmq.Context[AnySocket],
        *,
        stage: int,
        stages: int,
        epoch: int,
        runtime: Path,
        hops: Hops,
        address: str = "",
        peer: str = "",
        gate: Gate | None = None,
    ) -> None:
        self.epoch = epoch
        self.is_linked = False  # the next stage is connected
        self._stage = stage
        self._next = (stage + 1) % stages
        self._gate = gate
        self._connection: Connection | None = None
        self._piece_bytes = MAX_TENSOR_BYTES
        self._hops = hops
        self._name = f"stage-{stage}/{epoch}".encode()
        self._neighbour = f"stage-{(stage - 1) % stages}/{epoch}".encode()
        self._received = 0
        self._owed: Received | None = None  # to be answered by a receipt
        self._acknowledged = 0
        self._unacknowledged_bytes = 0
        self._window = Window()
        self._path = runtime / f"{stage}-{epoch}.{os.getpid()}"
        self._inlet = context.socket(zmq.ROUTER)
        self._inlet.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.endpoint = self._bind(address, peer)
        self._outlet = context.socket(zmq.DEALER)
        self._outlet.setsockopt(zmq.ROUTING_ID, self._name)
        self.sockets: tuple[AnySocket, ...] = (self._inlet, self._outlet)

    @property
    def has_room(self) -> bool:
        """Whether the credit of the output allows another message."""
        return self._window.has_room

    @property
    def unapplied(self) -> int:
        """Messages sent whose application is not known here yet."""
        return self._window.unapplied

    def credits(self) -> int:
        """Messages that may still be sent."""
        return WINDOW_MESSAGES - self._window.unapplied

    def connect(self, endpoint: str | None, server: str = "") -> None:
        """Connect the output to the next stage, whose host's public key is `server`; None if there is none."""
        if endpoint is None:
            self.is_linked = True
            return
        prepare(self._outlet, endpoint)
        if is_tcp(endpoint):
            self._piece_bytes = _PIECE_BYTES
        if self._gate is not None and server:
            self._gate.present(self._outlet, server)
        self._connection = Connection(self._outlet, endpoint, f"stage {self._next}", time.monotonic())
        self._watch()
        self._outlet.connect(endpoint)

    def send(self, message: Message, payload: memoryview | None = None) -> float:
        """Send to the next stage, with a tensor's bytes; returns the time of the hand-over to ZeroMQ.

        That is before ZeroMQ's call: the receiver often runs before it returns, on the very core of the sender.
        """
        nbytes = payload.nbytes if payload is not None else 0
        sequence = self._window.sent(nbytes)
        header = encode(message)
        frames: list[Any] = [_SEQUENCE.pack(sequence), header]
        if payload is not None:
            frames += _pieces(payload, self._piece_bytes)
        now = time.monotonic()
        self._outlet.send_multipart(frames)
        self._hops.handed(sequence, _SEQUENCE.size + len(header) + nbytes, now)
        return now

    def acknowledge(self, received: Received) -> None:
        """Everything up to this message is applied: tell the upstream neighbour when that is worth a message."""
        self._unacknowledged_bytes += received.payload.nbytes
        if received.sequence - self._acknowledged < ACK_MESSAGES and self._unacknowledged_bytes < ACK_BYTES:
            return
        self._acknowledged, self._unacknowledged_bytes = received.sequence, 0
        self._answer(Ack(sequence=received.sequence))

    def receive(self, at: float, woken: bool) -> list[Received]:
        """All messages that have arrived; acknowledgements and receipts are taken in on the way.

        `at` is the time now; `woken`: this process was waiting until now. Raises ProtocolError if a message is missing
        or is none of the protocol's, and LinkLostError if the next stage is not connected any more.
        """
        if self._connection is not None:
            self._follow(self._connection, at)
        while (frames := _next(self._outlet)) is not None:
            match decode(frames[0].buffer, BackOnLink):
                case Ack(sequence=sequence):
                    self._window.applied(sequence)
                case Receipt(sequence=sequence, held_seconds=held):
                    if woken:
                        self._hops.answered(sequence, held, at)
        arrived: list[Received] = []
        while (frames := _next(self._inlet)) is not None:
            received = self._parse(frames, at)
            if woken and not arrived and self._hops.answers(received.message):
                self._owed = received
            arrived.append(received)
        return arrived

    def send_receipt(self) -> None:
        """Answer the message that woke this process, if that is due. Call it when the step is under way: right after
        the message the sender's answer would wait for a processor, behind everybody whom that message woke too."""
        if self._owed is not None:
            owed, self._owed = self._owed, None
            self._answer(Receipt(sequence=owed.sequence, held_seconds=time.monotonic() - owed.at))

    def close(self) -> None:
        """Close both sockets and remove the input's file."""
        if self._connection is not None:
            self._connection.close()
        self._inlet.close(linger=0)
        self._outlet.close(linger=0)
        self._path.unlink(missing_ok=True)

    def _bind(self, address: str, peer: str) -> str:
        if not address:
            return bind(self._inlet, f"ipc://{self._path}")
        prepare(self._inlet, tcp(address))
        if self._gate is not None:
            self._gate.guard(self._inlet, name=f"stage {self._stage}", allowed=lambda key: key == peer)
        try:
            return bind(self._inlet, tcp(address))
        except zmq.ZMQError as error:
            self._inlet.close(linger=0)
            raise ClusterError(
                f"stage {self._stage} cannot listen at {address}: {error.strerror}: that is not an address of this host"
                " now; check its `ips` in the hostfile and its network"
            ) from error

    def _follow(self, connection: Connection, now: float) -> None:
        try:
            connection.follow(now)
        finally:
            self.is_linked = connection.is_up
            if connection.monitor is None:
                self._connection = None
                self._watch()

    def _watch(self) -> None:
        monitor = self._connection.monitor if self._connection is not None else None
        self.sockets = (self._inlet, self._outlet, *([monitor] if monitor is not None else []))

    def _answer(self, message: Ack | Receipt) -> None:
        with contextlib.suppress(zmq.ZMQError):  # the neighbour is gone: the coordinator will say so
            self._inlet.send_multipart([self._neighbour, encode(message)])

    def _parse(self, frames: list[zmq.Frame], at: float) -> Received:
        sender, *rest = frames
        if sender.bytes != self._neighbour:
            raise ProtocolError(f"a message from {sender.bytes!r}, this link belongs to {self._neighbour.decode()}")
        if len(rest) < 2 or len(rest[0]) != _SEQUENCE.size:
            raise ProtocolError(f"{len(rest)} frames from {self._neighbour.decode()}, a message has two or more")
        (sequence,) = _SEQUENCE.unpack(rest[0].bytes)
        if sequence != self._received + 1:
            raise ProtocolError(f"message {sequence} from {self._neighbour.decode()} came after {self._received}")
        self._received = sequence
        return Received(sequence, decode(rest[1].buffer, OnLink), _joined(rest[2:]), at)


def _pieces(payload: memoryview, nbytes: int) -> list[zmq.Frame]:
    return [zmq.Frame(payload[at : at + nbytes], copy=True) for at in range(0, payload.nbytes, nbytes)]


def _joined(pieces: Sequence[zmq.Frame]) -> memoryview:
    """A tensor in one frame as it is, one in several as a copy. Raises ProtocolError if it is too large for that."""
    if len(pieces) == 1:
        return pieces[0].buffer
    if (nbytes := sum(map(len, pieces))) > MAX_TENSOR_BYTES:
        raise ProtocolError(f"a tensor of {nbytes} bytes in {len(pieces)} frames, the limit is {MAX_TENSOR_BYTES}")
    return memoryview(b"".join([piece.buffer for piece in pieces]))


def _next(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
