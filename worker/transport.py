"""The worker's sockets, all but the pulse's: the control link, and the data links of the current epoch.

They belong to the compute thread. ZeroMQ's own thread sends and receives while this one computes; a thread of ours in
between would cost two more wake-ups a hop (docs/log.md).
"""

from collections import Counter
from pathlib import Path
from typing import Any

import zmq

from worker.gate import Gate
from worker.keyring import Keyring
from worker.links import Links
from worker.protocol import Message, ToWorker
from worker.sockets import AnySocket, prepare
from worker.telemetry.hops import Hops
from worker.wire import decode, encode

WAIT_MILLISECONDS = 500  # then look whether a signal asks to leave
LINGER_MILLISECONDS = 500


class Transport:
    """Sends and receives for one worker; with a `keyring` through a `gate`, else that is None.

    Raises zmq.ZMQError if `control` is no endpoint, and ConfigError if a key is missing.
    """

    def __init__(
        self, *, control: str, session: str, stage: int, stages: int, runtime: Path, keyring: Keyring | None = None
    ) -> None:
        self._stage = stage
        self._stages = stages
        self._runtime = runtime
        self._context = zmq.Context()
        self.gate = Gate(self._context, keyring) if keyring is not None else None
        self._control = self._context.socket(zmq.DEALER)
        self._control.setsockopt(zmq.ROUTING_ID, f"stage-{stage}/{session}".encode())
        self._control.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        self._control.setsockopt(zmq.SNDHWM, 0)  # the messages are few and small, and none may be lost
        self._control.setsockopt(zmq.RCVHWM, 0)
        prepare(self._control, control)
        if self.gate is not None:
            self.gate.present(self._control, self.gate.keyring.coordinator)
        self._control.connect(control)
        self._links: Links | None = None
        self._polled: tuple[AnySocket, ...] = ()
        self._poller = self._watch()

    def refused(self) -> Counter[str]:
        """Connections that were turned away, by reason; may be called from any thread."""
        return Counter(self.gate.counts) if self.gate is not None else Counter()

    def wait(self) -> None:
        """Until something arrives, but not for long."""
        if self._links is not None and self._links.sockets is not self._polled:
            self._poller = self._watch()
        self._poller.poll(WAIT_MILLISECONDS)

    def orders(self) -> list[Any]:
        """What the coordinator has sent. Raises ProtocolError for what is no message of the protocol."""
        arrived: list[Any] = []
        while True:
            try:
                frame = self._control.recv(zmq.NOBLOCK)
            except zmq.Again:
                return arrived
            arrived.append(decode(frame, ToWorker))

    def report(self, message: Message) -> None:
        """Send to the coordinator."""
        self._control.send(encode(message))

    def new_links(self, epoch: int, hops: Hops, *, address: str = "", peer: str = "") -> Links:
        """The data links of a new epoch, see `Links`; those of the old one are closed."""
        if self._links is not None:
            self._links.close()
            self._links = None
        self._links = Links(
            self._context,
            stage=self._stage,
            stages=self._stages,
            epoch=epoch,
            runtime=self._runtime,
            hops=hops,
            address=address,
            peer=peer,
            gate=self.gate,
        )
        return self._links

    def close(self) -> None:
        """Send what is queued for the coordinator, close all sockets and remove their files."""
        if self._links is not None:
            self._links.close()
        self._control.close()
        if self.gate is not None:
            self.gate.close()
        self._context.term()

    def _watch(self) -> zmq.Poller:
        self._polled = self._links.sockets if self._links is not None else ()
        poller = zmq.Poller()
        for socket in (self._control, *self._polled):
            poller.register(socket, zmq.POLLIN)
        return poller
