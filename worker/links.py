"""A stage's data links in one epoch: input from the upstream neighbour, output to the downstream one.

One DEALER (upstream, connects) faces one ROUTER (downstream, binds); the frames are sequence number, message[, tensor].
Acknowledgements flow back on the same pair. Every epoch has its own sockets and endpoints, so nothing of an old epoch
can arrive in a new one.
"""

import contextlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from worker.errors import ProtocolError
from worker.protocol import Ack, Message, OnLink, decode, encode
from worker.window import ACK_BYTES, ACK_MESSAGES, Window

_SEQUENCE = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class Received:
    """A message of the upstream neighbour; `payload` is the tensor's bytes, empty if there is none."""

    sequence: int
    message: Any
    payload: memoryview


class Links:
    """Bound on creation, at `endpoint`; `epoch` is theirs for life."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], *, stage: int, stages: int, epoch: int, runtime: Path
    ) -> None:
        self.epoch = epoch
        self._name = f"stage-{stage}/{epoch}".encode()
        self._neighbour = f"stage-{(stage - 1) % stages}/{epoch}".encode()
        self._received = 0
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

    def connect(self, endpoint: str) -> None:
        """Connect the output to the next stage."""
        self._outlet.connect(endpoint)

    def send(self, message: Message, payload: memoryview | None = None) -> None:
        """Send to the next stage."""
        sequence = self._window.sent(payload.nbytes if payload is not None else 0)
        frames: list[Any] = [_SEQUENCE.pack(sequence), encode(message)]
        self._outlet.send_multipart(frames if payload is None else [*frames, payload])

    def acknowledge(self, received: Received) -> None:
        """Everything up to this message is applied: tell the upstream neighbour when that is worth a message."""
        self._unacknowledged_bytes += received.payload.nbytes
        if received.sequence - self._acknowledged < ACK_MESSAGES and self._unacknowledged_bytes < ACK_BYTES:
            return
        self._acknowledged, self._unacknowledged_bytes = received.sequence, 0
        with contextlib.suppress(zmq.ZMQError):  # the neighbour is gone: the coordinator will say so
            self._inlet.send_multipart([self._neighbour, encode(Ack(sequence=received.sequence))])

    def receive(self) -> list[Received]:
        """All messages that have arrived; acknowledgements are taken in on the way.

        Raises ProtocolError if a message is missing or is none of the protocol's.
        """
        while (frames := _next(self._outlet)) is not None:
            self._window.applied(decode(frames[0].buffer, Ack).sequence)
        arrived: list[Received] = []
        while (frames := _next(self._inlet)) is not None:
            arrived.append(self._parse(frames))
        return arrived

    def close(self) -> None:
        """Close both sockets and remove the input's file."""
        self._inlet.close(linger=0)
        self._outlet.close(linger=0)
        self._path.unlink(missing_ok=True)

    def _parse(self, frames: list[zmq.Frame]) -> Received:
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
        return Received(sequence, decode(rest[1].buffer, OnLink), payload)


def _next(socket: zmq.Socket[bytes]) -> list[zmq.Frame] | None:
    try:
        return socket.recv_multipart(zmq.NOBLOCK, copy=False)
    except zmq.Again:
        return None
