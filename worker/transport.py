"""The worker's sockets, all but the heartbeat's; they belong to the compute thread.

Between two stages one DEALER (upstream, connects) faces one ROUTER (downstream, binds); its frames are sequence number,
message[, tensor]. Every epoch has its own pair of sockets and endpoints, so nothing of an old epoch can arrive in a new
one. ZeroMQ's own thread sends and receives while this one computes; a thread of ours in between would cost two more
wake-ups a hop (docs/log.md).
"""

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq

from worker.errors import ProtocolError
from worker.protocol import Ack, Listening, Message, OnLink, ToWorker, decode, encode

WAIT_MILLISECONDS = 500  # then look whether a signal asks to leave
LINGER_MILLISECONDS = 500
_SEQUENCE = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class FromControl:
    """A message of the coordinator."""

    message: Any


@dataclass(frozen=True, slots=True)
class FromLink:
    """A message of the upstream neighbour; `payload` is the tensor's bytes, empty if there is none."""

    sequence: int
    message: Any
    payload: memoryview = field(default=memoryview(b""))


@dataclass(frozen=True, slots=True)
class Acked:
    """The downstream neighbour has applied everything up to `sequence`."""

    sequence: int


@dataclass(frozen=True, slots=True)
class Broken:
    """A peer sent what it must not send, or a message is missing."""

    reason: str


Event = FromControl | FromLink | Acked | Broken


class Transport:
    """Sends and receives for one worker: the control link, and the data links to both neighbours."""

    def __init__(self, *, control: str, session: str, stage: int, stages: int, runtime: Path) -> None:
        self._stage = stage
        self._upstream = (stage - 1) % stages
        self._runtime = runtime
        self._context = zmq.Context()
        self._epoch = 0
        self._sent = 0
        self._received = 0
        self._bound: Path | None = None
        self._inlet: zmq.Socket[bytes] | None = None
        self._outlet: zmq.Socket[bytes] | None = None
        self._control = self._socket(zmq.DEALER, f"stage-{stage}/{session}")
        self._control.connect(control)
        self._poller = self._watch()

    def events(self, *, wait: bool) -> list[Event]:
        """What has arrived; with `wait`, for a while until something does."""
        events: list[Event] = []
        for socket, _ in self._poller.poll(WAIT_MILLISECONDS if wait else 0):
            events += self._drain(socket)
        return events

    def report(self, message: Message) -> None:
        """Send to the coordinator."""
        self._control.send(encode(message))

    def send(self, message: Message, payload: memoryview | None = None) -> int:
        """Send to the next stage; returns the message's sequence number, which its `Acked` will carry."""
        assert self._outlet is not None
        self._sent += 1
        frames: list[Any] = [_SEQUENCE.pack(self._sent), encode(message)]
        self._outlet.send_multipart(frames if payload is None else [*frames, payload])
        return self._sent

    def acknowledge(self, sequence: int) -> None:
        """Tell the upstream neighbour that everything up to `sequence` is applied."""
        assert self._inlet is not None
        with contextlib.suppress(zmq.ZMQError):  # the neighbour is gone: the coordinator will say so
            self._inlet.send_multipart([self._neighbour(), encode(Ack(sequence=sequence))])

    def listen(self, epoch: int) -> None:
        """Drop the data links, bind the input of this epoch and tell the coordinator where."""
        self._close_links()
        self._epoch = epoch
        self._sent = self._received = 0
        self._bound = self._runtime / f"{self._stage}-{epoch}.{os.getpid()}"
        self._inlet = self._socket(zmq.ROUTER, f"inlet-{epoch}")
        self._inlet.bind(f"ipc://{self._bound}")
        self._poller = self._watch()
        self.report(Listening(epoch=epoch, endpoint=f"ipc://{self._bound}"))

    def connect(self, endpoint: str) -> None:
        """Connect the output of this epoch."""
        self._outlet = self._socket(zmq.DEALER, f"stage-{self._stage}/{self._epoch}")
        self._outlet.connect(endpoint)
        self._poller = self._watch()

    def close(self) -> None:
        """Send what is queued for the coordinator, close all sockets and remove their files."""
        self._close_links()
        self._control.close()
        self._context.term()

    def _neighbour(self) -> bytes:
        return f"stage-{self._upstream}/{self._epoch}".encode()

    def _socket(self, kind: int, identity: str) -> zmq.Socket[bytes]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.ROUTING_ID, identity.encode())
        socket.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        socket.setsockopt(zmq.HEARTBEAT_IVL, 1000)
        socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, 10000)
        if kind == zmq.ROUTER:
            socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        return socket

    def _watch(self) -> zmq.Poller:
        poller = zmq.Poller()
        # links first: what they hold belongs to the epoch that an order from the coordinator may end
        for socket in (self._inlet, self._outlet, self._control):
            if socket is not None:
                poller.register(socket, zmq.POLLIN)
        return poller

    def _drain(self, socket: zmq.Socket[bytes]) -> Iterator[Event]:
        """All that waits in one socket."""
        read: Callable[[list[zmq.Frame]], Event | None] = (
            self._from_control
            if socket is self._control
            else self._from_upstream
            if socket is self._inlet
            else self._from_downstream
        )
        while True:
            try:
                event = read(socket.recv_multipart(zmq.NOBLOCK, copy=False))
            except zmq.Again:
                return
            except ProtocolError as error:
                event = Broken(error.message)
            if event is not None:
                yield event

    def _from_control(self, frames: list[zmq.Frame]) -> Event:
        return FromControl(decode(frames[0].buffer, ToWorker))

    def _from_downstream(self, frames: list[zmq.Frame]) -> Event:
        return Acked(decode(frames[0].buffer, Ack).sequence)

    def _from_upstream(self, frames: list[zmq.Frame]) -> Event | None:
        sender, *rest = frames
        expected = self._neighbour()
        if sender.bytes != expected:
            return None  # not our neighbour of this epoch
        if not 2 <= len(rest) <= 3 or len(rest[0]) != _SEQUENCE.size:
            raise ProtocolError(f"{len(rest)} frames from {expected.decode()}, a message has two or three")
        (sequence,) = _SEQUENCE.unpack(rest[0].bytes)
        if sequence != self._received + 1:
            raise ProtocolError(f"message {sequence} from {expected.decode()} came after {self._received}")
        self._received = sequence
        payload = rest[2].buffer if len(rest) == 3 else memoryview(b"")
        return FromLink(sequence, decode(rest[1].buffer, OnLink), payload)

    def _close_links(self) -> None:
        for socket in (self._inlet, self._outlet):
            if socket is not None:
                socket.close(linger=0)
        self._inlet = self._outlet = None
        if self._bound is not None:
            self._bound.unlink(missing_ok=True)
            self._bound = None
