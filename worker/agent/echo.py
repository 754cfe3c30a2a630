"""Sends back what it gets, so that other hosts can measure the way here."""

import threading
from collections.abc import Callable

import zmq

from worker.errors import ConfigError
from worker.links.gate import Gate
from worker.links.sockets import AnySocket, bind, prepare, tcp

MOST_BYTES = 64 << 10
WAITING = 100  # messages


class Echo:
    """A ROUTER at any free port of `address`; with a gate only for those whose public key is `allowed`.

    It runs without Python between the messages, in a thread that ends with the context. Raises ConfigError if this
    machine cannot listen there.
    """

    def __init__(
        self, context: zmq.Context[AnySocket], address: str, *, gate: Gate | None, allowed: Callable[[str], bool]
    ) -> None:
        self._socket = context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, WAITING)
        self._socket.setsockopt(zmq.RCVHWM, WAITING)
        where = tcp(address)
        prepare(self._socket, where, limit=MOST_BYTES)
        try:
            if gate is not None:
                gate.guard(self._socket, name="echo", allowed=allowed)
            self.endpoint = _bound(self._socket, where)
        except BaseException:
            self._socket.close()  # the context cannot end before
            raise
        threading.Thread(target=self._run, name="echo", daemon=True).start()

    def _run(self) -> None:
        try:
            zmq.proxy(self._socket, self._socket)
        except zmq.ZMQError:  # the context is at its end
            self._socket.close()


def _bound(socket: AnySocket, where: str) -> str:
    try:
        return bind(socket, where)
    except zmq.ZMQError as error:
        reason = zmq.strerror(error.errno or 0)
        raise ConfigError(
            f"this host cannot listen at {where}: {reason}: correct its `ips` in the hostfile, or --address"
        ) from error
