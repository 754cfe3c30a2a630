"""CURVE on the sockets of one ZeroMQ context: who may come in, and who was turned away.

CURVE alone lets in every client that knows the server's public key. So a thread answers ZeroMQ's question about each
client key (ZAP, rfc.zeromq.org/spec/27) and follows the handshakes that never get so far. No message passes it.
"""

import contextlib
import errno
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from urllib.parse import urlsplit

import zmq
import zmq.utils.z85
from zmq.utils.monitor import parse_monitor_message

from worker.errors import ConfigError
from worker.links.keyring import Keyring
from worker.links.sockets import AnySocket

log = logging.getLogger("stageline.gate")

ZAP = "inproc://zeromq.zap.01"
AGAIN_SECONDS = 60.0  # a peer that tries again and again is worth a line a minute
REMEMBERED = 1000  # peers, so that a stranger cannot fill the memory
GONE = "a peer that hung up at once"  # before its address could be read

UNFINISHED = {  # what ends a handshake before a key is shown
    "no_key": "it shows no key",
    "wrong_server_key": "it expects another public key of this host than `stageline keys list` shows here",
    "no_handshake": "it does not speak ZeroMQ, or too slowly",
}
REASONS = ("unknown_key", "wrong_name", *UNFINISHED)
HUNG_UP = (errno.EPIPE, errno.ECONNRESET)

EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_MONITOR_STOPPED
)


@dataclass(slots=True)
class _Door:
    """A guarded socket, seen by the thread. `peers` are the addresses of its connections by descriptor; those in
    `pending` have certainly not shown a key; `failure` is why the connection that ends next was not."""

    name: str
    allowed: Callable[[str], bool]
    monitor: AnySocket
    peers: dict[int, str] = field(default_factory=dict[int, str])
    pending: set[int] = field(default_factory=set[int])
    failure: str = ""


class Gate:
    """Guards sockets of `context` with the keys of `keyring`. Close it after them and before the context."""

    def __init__(self, context: zmq.Context[AnySocket], keyring: Keyring) -> None:
        self.keyring = keyring
        self.counts: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        self._context = context
        self._lock = threading.Lock()
        self._numbers = count(1)
        self._doors: dict[bytes, _Door] = {}
        self._said: dict[tuple[str, ...], tuple[float, int]] = {}
        self._thread: threading.Thread | None = None
        self._wake: AnySocket | None = None

    def present(self, socket: AnySocket, server: str) -> None:
        """Before `socket` connects to the server with this public key: show own key, talk to nobody else."""
        secret = self.keyring.secret.encode()
        socket.setsockopt(zmq.CURVE_SECRETKEY, secret)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, zmq.curve_public(secret))
        socket.setsockopt(zmq.CURVE_SERVERKEY, server.encode())

    def guard(self, socket: AnySocket, *, name: str, allowed: Callable[[str], bool]) -> None:
        """Before `socket` is bound: only clients whose public key is `allowed` come in; `name` is for the log.

        `allowed` is called by the gate's thread, once for a connection, and raises nothing.
        """
        domain = f"{next(self._numbers)}"
        monitored = f"inproc://gate-{domain}-{id(self)}"
        socket.setsockopt(zmq.CURVE_SECRETKEY, self.keyring.secret.encode())
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.ZAP_DOMAIN, domain.encode())
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # nobody comes in while nobody answers
        socket.monitor(monitored, EVENTS)
        monitor = self._context.socket(zmq.PAIR)
        monitor.connect(monitored)
        with self._lock:
            self._doors[domain.encode()] = _Door(name, allowed, monitor)
            self._start().send(domain.encode())

    def refuse(self, name: str, peer: str, reason: str, why: str) -> None:
        """Count a refusal by the socket `name`, and write a line if it is the first of its kind for a while.

        `reason` is one of REASONS.
        """
        with self._lock:
            self.counts[reason] += 1
        self._say(logging.WARNING, (name, peer, reason), f"{name}: refused {peer}: {why}")

    def host_of(self, key: str) -> str | None:
        """The host that may come in with this public key. While the list cannot be read there is none, and a line
        says so now and then."""
        try:
            return self.keyring.name_of(key)
        except ConfigError as error:
            self._say(logging.ERROR, (error.message,), error.message)
            return None

    def close(self) -> None:
        """End the thread; sockets that are still open let nobody in any more."""
        if self._wake is not None and self._thread is not None:
            self._wake.send(b"")
            self._thread.join()
            self._wake.close()

    def _say(self, level: int, about: tuple[str, ...], line: str) -> None:
        """Write the line if it is the first about this for a while."""
        now = time.monotonic()
        with self._lock:
            if len(self._said) > REMEMBERED:
                self._said.clear()
            said, more = self._said.get(about, (-AGAIN_SECONDS, 0))
            silent = now < said + AGAIN_SECONDS
            self._said[about] = (said, more + 1) if silent else (now, 0)
        if not silent:
            log.log(level, "%s%s", line, f" ({more} times more since the last line)" if more else "")

    def _start(self) -> AnySocket:
        """The thread runs from the first guarded socket on; returns what wakes it."""
        if self._wake is None:
            handler = self._context.socket(zmq.ROUTER)
            handler.bind(ZAP)
            awoken = self._context.socket(zmq.PAIR)
            awoken.bind(f"inproc://gate-{id(self)}")
            self._wake = self._context.socket(zmq.PAIR)
            self._wake.connect(f"inproc://gate-{id(self)}")
            self._thread = threading.Thread(target=self._run, args=(handler, awoken), name="gate", daemon=True)
            self._thread.start()
        return self._wake

    # --- the thread ---

    def _run(self, handler: AnySocket, awoken: AnySocket) -> None:
        poller = zmq.Poller()
        poller.register(handler, zmq.POLLIN)
        poller.register(awoken, zmq.POLLIN)
        doors: dict[AnySocket, bytes] = {}
        try:
            while True:
                for source, _ in poller.poll():
                    if source is handler:
                        self._answer(handler)
                    elif source is awoken:
                        if not (domain := awoken.recv()):
                            return
                        monitor = self._doors[domain].monitor
                        poller.register(monitor, zmq.POLLIN)
                        doors[monitor] = domain
                    elif not self._follow(self._doors[doors[source]]):
                        poller.unregister(source)
                        source.close(linger=0)
                        with self._lock:
                            del self._doors[doors.pop(source)]
        finally:
            for opened in (handler, awoken, *doors):
                opened.close(linger=0)

    def _answer(self, handler: AnySocket) -> None:
        """One question: version, number, domain, address, routing id, mechanism, and for CURVE the client's key."""
        sender, _, version, number, domain, address, _, mechanism, *credentials = handler.recv_multipart()
        door = self._doors.get(domain)
        key = zmq.utils.z85.encode(credentials[0]).decode() if mechanism == b"CURVE" and credentials else ""
        allows = False
        if door is not None:
            allows = door.allowed(key)
            if not allows:
                self.refuse(door.name, address.decode(), "unknown_key", f"its key {key} is not one that may come in")
        status = (b"200", b"OK", key.encode()) if allows else (b"400", b"refused", b"")
        handler.send_multipart([sender, b"", version, number, *status, b""])

    def _follow(self, door: _Door) -> bool:
        """What happened to a guarded socket's connections; False when the socket is closed.

        A connection's failure comes right before its end, which alone names it; both are of ZeroMQ's one thread.
        """
        while True:
            try:
                event = parse_monitor_message(door.monitor.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return True
            kind, value = event["event"], int(event["value"])
            if kind == zmq.EVENT_ACCEPTED:
                door.peers[value] = _peer(value, event["endpoint"].decode())
                door.pending.add(value)
                door.failure = ""
            elif kind in (zmq.EVENT_HANDSHAKE_SUCCEEDED, zmq.EVENT_HANDSHAKE_FAILED_AUTH):
                door.pending.clear()  # one of them was let in, or refused above; it does not say which
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
                keyed = value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC
                door.failure = "wrong_server_key" if keyed else "no_key"
            elif kind == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
                # a client without keys hangs up when it is asked for one, often before it is hung up on
                door.failure = "no_key" if value in HUNG_UP else "no_handshake"
            elif kind == zmq.EVENT_DISCONNECTED:
                peer = door.peers.pop(value, GONE)
                reason = door.failure or ("no_handshake" if value in door.pending else "")
                door.pending.discard(value)
                door.failure = ""
                if reason:
                    self.refuse(door.name, peer, reason, UNFINISHED[reason])
            elif kind == zmq.EVENT_MONITOR_STOPPED:
                return False


def _peer(descriptor: int, endpoint: str) -> str:
    """The IP address at the other end of a connection that was just accepted at `endpoint`.

    ZeroMQ tells the descriptor and owns it: the peer may be gone already, and the number may be another's.
    """
    with contextlib.suppress(OSError):
        copy = os.dup(descriptor)
        try:
            accepted = socket.socket(fileno=copy)
        except OSError:  # it is no socket any more
            os.close(copy)
            raise
        with accepted:
            if accepted.getsockname()[1] == urlsplit(endpoint).port:
                return accepted.getpeername()[0]
    return GONE
