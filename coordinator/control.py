"""The coordinator's end of the control links: one ROUTER that every worker dials, and so does every worker's pulse."""

import asyncio
import contextlib
import logging
from collections.abc import Callable

import zmq

from worker.errors import ProtocolError
from worker.protocol import FromWorker, Message
from worker.wire import decode, encode

log = logging.getLogger("stageline.control")


class Control:
    """Sends to `stage-<i>/<session>` and hands what arrives to `receive(stage, session, message)`.

    Belongs to the running event loop. The socket's file descriptor is watched directly: zmq.asyncio takes three times
    the processor time per message.
    """

    def __init__(self, endpoint: str, receive: Callable[[int, str, Message], None]) -> None:
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # the messages are few and small, and none may be lost
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(endpoint)
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._drain)

    def send(self, stage: int, session: str, message: Message) -> None:
        """Send at once; a worker that is gone meanwhile is noticed by its supervisor, not here."""
        with contextlib.suppress(zmq.ZMQError):  # unroutable: no other reason, there is no limit to the queue
            self._socket.send_multipart([f"stage-{stage}/{session}".encode(), encode(message)], zmq.NOBLOCK)
        # the descriptor tells of new messages once, and sending may have taken that notice
        self._loop.call_soon(self._drain)

    def close(self) -> None:
        """Close the socket; ends nothing at the workers."""
        self._loop.remove_reader(self._descriptor)
        self._socket.close()
        self._context.term()

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            try:
                stage, session = identity.decode().partition("-")[2].split("/")
                number, message = int(stage), decode(frames[0], FromWorker)
            except (ProtocolError, ValueError, IndexError) as error:
                log.warning("dropped a message from %r: %s", identity, error)
                continue
            self._receive(number, session, message)
