"""Whether an outgoing connection stands: what ZeroMQ's monitor of its socket says.

ZeroMQ connects again by itself, but what was under way may be lost: a connection that ended once has ended for good.
"""

from collections.abc import Mapping

import zmq
from zmq.utils.monitor import parse_monitor_message

from worker.errors import LinkLostError
from worker.links.sockets import AnySocket, is_tcp

CONNECT_SECONDS = 10.0
GRACE_SECONDS = 1.0  # the neighbour's end ends its connection too, and says more

EVENTS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
)
PROBLEMS: Mapping[int, str] = {
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it refuses this host's key",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "the keys of the two hosts do not match",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it hung up in the handshake",
}
NO_ANSWER = "no answer; check the network between the two hosts, and that their firewalls let the cluster's ports pass"


class Connection:
    """That of `socket` to `endpoint`, which belongs to `neighbour`; make it before the socket connects, at time `now`.

    `is_up` from the end of the handshake on. `monitor` is what to poll, until the connection needs no watch any more:
    on one host a connection ends with its process, which the supervisor sees.
    """

    def __init__(self, socket: AnySocket, endpoint: str, neighbour: str, now: float) -> None:
        self.is_up = False
        self._socket = socket
        self._where = f"{neighbour} at {endpoint}"
        self._between_hosts = is_tcp(endpoint)
        self._since = now
        self._lost: float | None = None
        self._problem = NO_ANSWER
        self.monitor: AnySocket | None = socket.get_monitor_socket(EVENTS)

    def follow(self, now: float) -> None:
        """Take in what has happened. Raises LinkLostError, once, if the connection was lost or does not come about."""
        if self.monitor is None:
            return
        while True:
            try:
                event = parse_monitor_message(self.monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                break
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.is_up = True
            elif event == zmq.EVENT_DISCONNECTED and self.is_up:
                self._lost = now if self._lost is None else self._lost
            else:
                self._problem = PROBLEMS.get(event, self._problem)
        if not self._between_hosts:
            if self.is_up:
                self.close()
        elif self._lost is not None and now >= self._lost + GRACE_SECONDS:
            self.close()
            raise LinkLostError(f"the connection to {self._where} was lost")
        elif not self.is_up and now >= self._since + CONNECT_SECONDS:
            self.close()
            raise LinkLostError(f"no connection to {self._where} after {CONNECT_SECONDS:g} s: {self._problem}")

    def close(self) -> None:
        """Watch no longer."""
        if self.monitor is not None:
            self._socket.disable_monitor()
            self.monitor.close(linger=0)
            self.monitor = None
