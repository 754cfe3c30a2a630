"""The thread that says a worker lives, while its compute thread computes. It has a socket of its own."""

import contextlib
import threading
from collections.abc import Callable

import zmq

from worker.links.gate import Gate
from worker.links.sockets import prepare
from worker.links.wire import encode
from worker.protocol import Heartbeat

HEARTBEAT_SECONDS = 0.5
KEPT_BEATS = 4  # until the connection stands


class Pulse:
    """Sends `vitals()` to the coordinator at once and then twice a second, until closed."""

    def __init__(self, *, control: str, session: str, stage: int, gate: Gate | None = None) -> None:
        self._control = control
        self._gate = gate
        self._identity = f"pulse-{stage}/{session}".encode()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, vitals: Callable[[], Heartbeat]) -> None:
        """`vitals` is called by the thread: it may only read numbers."""
        self._thread = threading.Thread(target=self._run, args=(vitals,), name="pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, vitals: Callable[[], Heartbeat]) -> None:
        with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.ROUTING_ID, self._identity)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SNDHWM, KEPT_BEATS)
            prepare(socket, self._control)
            if self._gate is not None:
                self._gate.present(socket, self._gate.keyring.coordinator)
            socket.connect(self._control)
            while True:
                with contextlib.suppress(zmq.Again):  # the coordinator is away: old beats are of no use to it
                    socket.send(encode(vitals()), zmq.NOBLOCK)
                if self._stop.wait(HEARTBEAT_SECONDS):
                    return
