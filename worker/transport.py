"""The worker's sockets, all but the pulse's: the control link, and the data links of the current epoch.

They belong to the compute thread. ZeroMQ's own thread sends and receives while this one computes; a thread of ours in
between would cost two more wake-ups a hop (docs/log.md).
"""

from pathlib import Path
from typing import Any

import zmq

from worker.links import Links
from worker.protocol import Message, ToWorker
from worker.telemetry.hops import Hops
from worker.wire import decode, encode

WAIT_MILLISECONDS = 500  # then look whether a signal asks to leave
LINGER_MILLISECONDS = 500


class Transport:
    """Sends and receives for one worker."""

    def __init__(self, *, control: str, session: str, stage: int, stages: int, runtime: Path) -> None:
        self._stage = stage
        self._stages = stages
        self._runtime = runtime
        self._context = zmq.Context()
        self._control = self._context.socket(zmq.DEALER)
        self._control.setsockopt(zmq.ROUTING_ID, f"stage-{stage}/{session}".encode())
        self._control.setsockopt(zmq.LINGER, LINGER_MILLISECONDS)
        self._control.setsockopt(zmq.SNDHWM, 0)  # the messages are few and small, and none may be lost
        self._control.setsockopt(zmq.RCVHWM, 0)
        self._control.connect(control)
        self._links: Links | None = None
        self._poller = self._watch()

    def wait(self) -> None:
        """Until something arrives, but not for long."""
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

    def new_links(self, epoch: int, hops: Hops) -> Links:
        """The data links of a new epoch; those of the old one are closed."""
        if self._links is not None:
            self._links.close()
        self._links = Links(
            self._context, stage=self._stage, stages=self._stages, epoch=epoch, runtime=self._runtime, hops=hops
        )
        self._poller = self._watch()
        return self._links

    def close(self) -> None:
        """Send what is queued for the coordinator, close all sockets and remove their files."""
        if self._links is not None:
            self._links.close()
        self._control.close()
        self._context.term()

    def _watch(self) -> zmq.Poller:
        poller = zmq.Poller()
        for socket in (self._control, *(self._links.sockets if self._links else ())):
            poller.register(socket, zmq.POLLIN)
        return poller
