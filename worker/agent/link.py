"""The agent's end of the control link: one DEALER, and what becomes of its connection."""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from enum import Enum
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from worker.agent.messages import ToAgent
from worker.errors import ConfigError, ProtocolError
from worker.links.gate import Gate
from worker.links.sockets import AnySocket, prepare
from worker.links.wire import decode, encode
from worker.protocol import Message

log = logging.getLogger("stageline.agent")

LINGER_MILLISECONDS = 500  # for the last words


class Event(Enum):
    """What became of the connection. After UNKNOWN_KEY and MISMATCH ZeroMQ does not try again by itself."""

    UP = zmq.EVENT_HANDSHAKE_SUCCEEDED
    DOWN = zmq.EVENT_DISCONNECTED
    UNKNOWN_KEY = zmq.EVENT_HANDSHAKE_FAILED_AUTH
    MISMATCH = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL  # one side uses keys and the other one does not
    HUNG_UP = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # as a server does with whoever expects another public key


class Link:
    """Messages to and from the coordinator at `endpoint`, as `identity`. Belongs to the running event loop.

    `heard(message)` gets what arrives, `noticed(event)` what becomes of the connection. Raises ConfigError if a key is
    missing, and if there can be no such endpoint.
    """

    def __init__(
        self,
        context: zmq.Context[AnySocket],
        endpoint: str,
        identity: str,
        *,
        gate: Gate | None,
        heard: Callable[[Message], None],
        noticed: Callable[[Event], None],
    ) -> None:
        self._heard = heard
        self._noticed = noticed
        self._loop = asyncio.get_running_loop()
        self._socket = _dealer(context, endpoint, identity, gate)
        self._monitor = self._socket.get_monitor_socket(sum(event.value for event in Event))
        self._watched = ((self._socket, self._read), (self._monitor, self._follow))
        for socket, drain in self._watched:
            self._loop.add_reader(int(socket.getsockopt(zmq.FD)), drain)
            self._loop.call_soon(drain)  # a descriptor tells of what comes after all was read
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close(lost=True)
            reason = zmq.strerror(error.errno or 0)
            raise ConfigError(f"{endpoint} cannot be dialled: {reason}: correct --coordinator") from error

    def send(self, message: Message) -> None:
        """Send as soon as there is a connection."""
        if not self._socket.closed:
            self._socket.send(encode(message), zmq.NOBLOCK)
            # the descriptor tells of new messages once, and sending may have taken that notice
            self._loop.call_soon(self._read)

    def close(self, *, lost: bool = False) -> None:
        """What was sent has half a second to get there, unless the coordinator it was meant for is `lost`: whoever
        listens there next shall not hear of this session."""
        for socket, _ in self._watched:
            self._loop.remove_reader(int(socket.getsockopt(zmq.FD)))
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=0 if lost else LINGER_MILLISECONDS)

    def _read(self) -> None:
        for frame in _drained(self._socket):
            try:
                message: Any = decode(frame[0], ToAgent)
            except ProtocolError as error:
                log.warning("dropped a message of the coordinator: %s", error)
                continue
            self._heard(message)

    def _follow(self) -> None:
        for frames in _drained(self._monitor):
            with contextlib.suppress(ValueError):  # the monitor's own end
                self._noticed(Event(parse_monitor_message(frames)["event"]))


def _dealer(context: zmq.Context[AnySocket], endpoint: str, identity: str, gate: Gate | None) -> AnySocket:
    socket = context.socket(zmq.DEALER)
    try:
        socket.setsockopt(zmq.ROUTING_ID, identity.encode())
        socket.setsockopt(zmq.SNDHWM, 0)  # the messages are few and small, and none may be lost
        socket.setsockopt(zmq.RCVHWM, 0)
        prepare(socket, endpoint)
        if gate is not None:
            gate.present(socket, gate.keyring.coordinator)
    except BaseException:
        socket.close(linger=0)  # the context cannot end before
        raise
    return socket


def _drained(socket: AnySocket) -> "list[list[bytes]]":
    """All that has arrived."""
    arrived: list[list[bytes]] = []
    while not socket.closed:
        try:
            arrived.append(socket.recv_multipart(zmq.NOBLOCK))
        except zmq.Again:
            break
    return arrived
