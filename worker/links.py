"""A stage's data links in one epoch: input from the upstream neighbour, output to the downstream one.

One DEALER (upstream, connects) faces one ROUTER (downstream, binds); the frames are sequence number, message[, tensor].
Acknowledgements and receipts flow back on the same pair. Every epoch has its own sockets and endpoints, so nothing of
an old epoch can arrive in a new one.
"""

import contextlib
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from worker.errors import ProtocolError
from worker.protocol import Ack, BackOnLink, Message, OnLink, Receipt
from worker.telemetry.hops import Hops
from worker.window import ACK_BYTES, ACK_MESSAGES, WINDOW_MESSAGES, Window
from worker.wire import decode, encode

_SEQUENCE = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the upstream neighbour, read at `at`; `payload` is the tensor's bytes, empty if there is none."""

    sequence: int
    message: Any
    payload: memoryview
    at: float


class Links:
    """Bound on creation, at `endpoint`; `epoch` is theirs for life. `hops` measures what they carry."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], *, stage: int, stages: int, epoch: int, runtime: Path, hops: Hops
    ) -> None:
        self.epoch = epoch
        self._hops = hops
        self._name = f"stage-{stage}/{epoch}".encode()
        self._neighbour = f"stage-{(stage - 1) % stages}/{epoch}".encode()
        self._received = 0
        self._owed: Received | None = None  # to be answered by a receipt
        self._acknowledged = 0
        self._unacknowledged_bytes = 0
        self._window = Window()
        self._path = runtime / f"{stage}-{epoch}.{os.getpid()}"
        self.endpoint = f"ipc://{self._path}"
        self._inlet = context.socket(zmq.ROUTER)
        self._inlet.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._inlet.bind(self.endpoint)
        self._outlet = context.socket(zmq.DEALER)
        self._outlet.setsockopt(zmq.ROUTING_ID, self._name)

    @property
    def sockets(self) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
        """What to poll."""
        return self._inlet, self._outlet

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

    def connect(self, endpoint: str) -> None:
        """Connect the output to the next stage."""
        self._outlet.connect(endpoint)

    def send(self, message: Message, payload: memoryview | None = None) -> float:
        """Send to the next stage; returns the time of the hand-over to ZeroMQ.

        That is before ZeroMQ's call: the receiver often runs before it returns, on the very core of the sender.
        """
        nbytes = payload.nbytes if payload is not None else 0
        sequence = self._window.sent(nbytes)
        header = encode(message)
        frames: list[Any] = [_SEQUENCE.pack(sequence), header]
        if payload is not None:
            frames.append(zmq.Frame(payload, copy=True))
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
        or is none of the protocol's.
        """
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
        self._inlet.close(linger=0)
        self._outlet.close(linger=0)
        self._path.unlink(missing_ok=True)

    def _answer(self, message: Ack | Receipt) -> None:
        with contextlib.suppress(zmq.ZMQError):  # the neighbour is gone: the coordinator will say so
            self._inlet.send_multipart([self._neighbour, encode(message)])

    def _parse(self, frames: list[zmq.Frame], at: float) -> Received:
        sender, *rest = frames
        if sender.bytes != self._neighbour:
            raise ProtocolError(f"a message from {sender.bytes!r}, this link belongs to {self._neighbour.decode()}")
        if not 2 <= len(rest) <= 3 or len(rest[0]) != _SEQUENCE.size:
            raise ProtocolError(f"{len(rest)} frames from {self._neighbour.decode()}, a message has two or three")
        (sequence,) = _SEQUENCE.unpack(rest[0].bytes)
        if sequence != self._received + 1:
            raise ProtocolError(f"message {sequence} from {self._neighbour.decode()} came after {self._received}")
        self._received = sequence
        payload = rest[2].buffer if len(rest) == 3 else memoryview(b"")
        return Received(sequence, decode(rest[1].buffer, OnLink), payload, at)


def _next(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
