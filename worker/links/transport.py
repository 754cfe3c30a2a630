"""The worker's sockets, all but the pulse's: the control link, and the data links of the current epoch.

They belong to the compute thread. ZeroMQ's own thread sends and receives while this one computes; a thread of ours in
between would cost two more wake-ups a hop (docs/log.md).
"""

from collections import Counter
from pathlib import Path
from typing import Any

import zmq
from zmq.utils.monitor import parse_monitor_message

from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.links.links import Links
from worker.links.sockets import AnySocket, is_tcp, prepare
from worker.links.wire import decode, encode
from worker.protocol import Message, ToWorker
from worker.telemetry.hops import Hops

WAIT_MILLISECONDS = 500  # then look whether a signal asks to leave
LINGER_MILLISECONDS = 500
LOOPBACK = "127.0.0.1"
EVENTS = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


class Transport:
    """Sends and receives for one worker, on the host with this IP `address`; with a `keyring` through a `gate`.

    Raises zmq.ZMQError if `control` is no endpoint, and ConfigError if a key is missing.
    """

    def __init__(
        self,
        *,
        control: str,
        session: str,
        stage: int,
        stages: int,
        runtime: Path,
        address: str = LOOPBACK,
        keyring: Keyring | None = None,
    ) -> None:
        self._stage = stage
        self._stages = stages
        self._runtime = runtime
        self._address = address
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
        # on this machine the connection ends with the coordinator, and then this process leaves
        self._monitor = self._control.get_monitor_socket(EVENTS) if is_tcp(control) else None
        self._was_lost = False
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

    def has_regained_control(self) -> bool:
        """Whether the coordinator is connected again, since the last call: what was on its way may be lost."""
        regained = False
        while self._monitor is not None:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                break
            if event == zmq.EVENT_DISCONNECTED:
                self._was_lost = True
            elif self._was_lost:
                self._was_lost, regained = False, True
        return regained

    def report(self, message: Message) -> None:
        """Send to the coordinator."""
        self._control.send(encode(message))

    def new_links(self, epoch: int, hops: Hops, *, remote: bool = False, peer: str = "") -> Links:
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
            address=self._address if remote else "",
            peer=peer,
            gate=self.gate,
        )
        return self._links

    def close(self) -> None:
        """Send what is queued for the coordinator, close all sockets and remove their files."""
        if self._links is not None:
            self._links.close()
        if self._monitor is not None:
            self._control.disable_monitor()
            self._monitor.close(linger=0)
        self._control.close()
        if self.gate is not None:
            self.gate.close()
        self._context.term()

    def _watch(self) -> zmq.Poller:
        self._polled = self._links.sockets if self._links is not None else ()
        poller = zmq.Poller()
        for socket in filter(None, (self._control, self._monitor, *self._polled)):
            poller.register(socket, zmq.POLLIN)
        return poller
