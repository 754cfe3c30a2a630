"""The coordinator's end of the control links: one ROUTER that every worker dials, every worker's pulse, every agent."""

import asyncio
import contextlib
import logging
import re
from collections import Counter
from collections.abc import Callable

import zmq

from worker.agent.messages import FromAgent, Leave
from worker.errors import ProtocolError
from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.links.sockets import bind, prepare
from worker.links.wire import decode, encode
from worker.protocol import FromWorker, Message

log = logging.getLogger("stageline.control")

IDENTITY = re.compile(r"(?:(?:stage|pulse)-([0-9]{1,6})|agent-([^/]+))/([^/]+)\Z")

Receive = Callable[[int, str, Message], None]
Hear = Callable[[str, str, Message], None]


class Control:
    """Sends to `stage-<i>/<session>` and `agent-<name>/<session>`, and hands what arrives to
    `receive(stage, session, message)` and `hear(name, session, message)`. Listens once it is bound.

    With a `keyring` only its hosts come in, and what comes is looked at again: an agent speaks for its own name alone,
    and a host whose key was revoked for nobody.

    Belongs to the running event loop. The socket's file descriptor is watched directly: zmq.asyncio takes three times
    the processor time per message.
    """

    def __init__(self, *, receive: Receive, hear: Hear | None = None, keyring: Keyring | None = None) -> None:
        self._receive = receive
        self._hear = hear
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context()
        self._gate = Gate(self._context, keyring) if keyring is not None else None
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # who connects again is heard at once, not when the old connection is known to be dead; names are random, and
        # with keys every message's sender is checked
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, 0)  # the messages are few and small, and none may be lost
        self._socket.setsockopt(zmq.RCVHWM, 0)
        if self._gate is not None:
            self._gate.guard(self._socket, name="control", allowed=self._is_known)
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._drain)

    def bind(self, endpoint: str) -> str:
        """Listen here too; returns the real endpoint if its port is "*". Raises zmq.ZMQError."""
        prepare(self._socket, endpoint)
        return bind(self._socket, endpoint)

    @property
    def refused(self) -> Counter[str]:
        """Connections that were turned away and messages that were dropped, by reason; empty without keys."""
        return Counter(self._gate.counts) if self._gate is not None else Counter()

    def send(self, stage: int, session: str, message: Message) -> None:
        """Send at once; a worker that is gone meanwhile is noticed by its supervisor, not here."""
        self._send(f"stage-{stage}/{session}", message)

    def tell(self, name: str, session: str, message: Message) -> None:
        """Send to an agent at once; one that is gone meanwhile is noticed by its silence."""
        self._send(f"agent-{name}/{session}", message)

    def close(self) -> None:
        """Close the socket; ends nothing at the workers."""
        self._loop.remove_reader(self._descriptor)
        self._socket.close()
        if self._gate is not None:
            self._gate.close()
        self._context.term()

    def _send(self, identity: str, message: Message) -> None:
        with contextlib.suppress(zmq.ZMQError):  # unroutable: no other reason, there is no limit to the queue
            self._socket.send_multipart([identity.encode(), encode(message)], zmq.NOBLOCK)
        # the descriptor tells of new messages once, and sending may have taken that notice
        self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                identity, *frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            try:
                self._hand_on(identity.bytes.decode(), frames[0])
            except (ProtocolError, UnicodeDecodeError, IndexError) as error:
                log.warning("dropped a message from %r: %s", identity.bytes, error)

    def _hand_on(self, identity: str, frame: zmq.Frame) -> None:
        sender = IDENTITY.match(identity)
        if sender is None:
            raise ProtocolError("nobody of a cluster is called that")
        stage, name, session = sender.groups()
        if self._gate is not None and not self._may(self._gate, name, session, frame):
            return
        if stage is not None:
            self._receive(int(stage), session, decode(frame.buffer, FromWorker))
        elif self._hear is not None:
            self._hear(name, session, decode(frame.buffer, FromAgent))

    def _may(self, gate: Gate, name: str | None, session: str, frame: zmq.Frame) -> bool:
        """Whether a message that claims to be of the agent `name`, or of a worker if that is None, comes from a host
        that may say so: its connection's key is known, and it may have been revoked since it came in. An agent under
        a wrong name is told: its connection stands, and it would wait for an answer for ever."""
        host = gate.host_of(str(frame.get("User-Id")))
        if host is not None and name in (None, host):
            return True
        why = f"it speaks for {name!r} with the key of {host}" if host else "its key was revoked"
        gate.refuse("control", str(frame.get("Peer-Address")), "wrong_name" if host else "unknown_key", why)
        if host is not None and name is not None:
            reason = (
                f"the coordinator knows this host's key as that of {host}, not of {name}: start the agent with --name "
                f"{host}, or with keys of its own: `stageline keys new` with another --keys here, then "
                f"`stageline keys add {name} KEY` there"
            )
            self.tell(name, session, Leave(reason=reason))
        return False

    def _is_known(self, key: str) -> bool:
        assert self._gate is not None
        return self._gate.host_of(key) is not None
