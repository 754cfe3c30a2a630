"""A worker's life: say hello, load what is assigned, link for an epoch and run it, until told to stop."""

import gc
import logging
from collections.abc import Callable
from typing import Any

from worker.engine import Engine
from worker.errors import ProtocolError, StagelineError, UserError
from worker.links import Links
from worker.protocol import (
    Assign,
    Chunk,
    Close,
    Connect,
    Failed,
    Fault,
    Hello,
    Lease,
    Linked,
    Listen,
    Listening,
    Loaded,
    Loading,
    Open,
    Stop,
)
from worker.run import Run
from worker.transport import Transport
from worker.vitals import Vitals

log = logging.getLogger("stageline.worker")

Progress = Callable[[int, int], None]
NewEngine = Callable[[], Engine]


class Service:
    """One worker process, seen from its compute thread: the main thread, the only one that touches MLX.

    `load` reads the assigned layers and returns what makes an engine with no requests; `vitals` are the numbers for
    the pulse.
    """

    def __init__(
        self, transport: Transport, *, stage: int, stages: int, load: Callable[[Assign, Progress], NewEngine]
    ) -> None:
        self.vitals = Vitals()
        self._transport = transport
        self._load = load
        self._stage = stage
        self._stages = stages
        self._new_engine: NewEngine | None = None
        self._links: Links | None = None
        self._run: Run | None = None
        self._stopping = False

    def run(self, hello: Hello) -> int:
        """Serve until stopped; returns the exit status."""
        self._transport.report(hello)
        try:
            while not self._stopping:
                if not self.turn():
                    self._transport.wait()
        except StagelineError as error:
            self._transport.report(Failed(message=error.message, user=isinstance(error, UserError)))
            return error.exit_status
        except Exception as error:  # MLX raises RuntimeError, ValueError and more; the coordinator tells the user
            log.debug("stage %d failed", self._stage, exc_info=True)
            self._transport.report(Failed(message=f"{type(error).__name__}: {error}", user=False))
            return 1
        finally:
            self._transport.close()
        return 0

    def terminate(self) -> None:
        """Leave after the current step; may be called from a signal handler."""
        self._stopping = True

    def turn(self) -> bool:
        """Take what has arrived and do one piece of work; False if there was nothing to do."""
        # links first: what they hold belongs to the epoch that an order may end
        arrived = self._receive()
        orders = self._transport.orders()
        for message in orders:
            self._obey(message)
        if self._run is not None and not self._run.is_idle:
            self._run.work()
            return True
        return bool(arrived or orders)

    def _receive(self) -> int:
        if self._links is None or self._run is None:
            return 0
        try:
            arrived = self._links.receive()
        except ProtocolError as error:
            self._transport.report(Fault(epoch=self._links.epoch, code="broken_link", message=error.message))
            return 1
        for received in arrived:
            self._run.receive(received)
        return len(arrived)

    def _obey(self, message: Any) -> None:
        match message:
            case Assign():
                self._assigned(message)
            case Listen(epoch=epoch):
                self._begin(epoch)
            case Connect(epoch=epoch, endpoint=endpoint):
                if self._links is not None and epoch == self._links.epoch:
                    if endpoint is not None:
                        self._links.connect(endpoint)
                    self._transport.report(Linked(epoch=epoch))
            case Stop():
                self._stopping = True
            case Open() | Chunk() | Lease() | Close():
                if self._run is not None:
                    self._run.order(message)
            case _:
                raise ProtocolError(f"stage {self._stage} cannot obey {type(message).__name__}")

    def _assigned(self, assign: Assign) -> None:
        def progress(loaded: int, total: int) -> None:
            if self._stopping:
                raise SystemExit(0)
            self._transport.report(Loading(loaded_bytes=loaded, total_bytes=total))

        self._new_engine = self._load(assign, progress)
        engine = self._new_engine()
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it again and again would stall steps
        self.vitals.memory(*engine.memory())
        self._transport.report(Loaded(fused_layers=engine.fused_layers))

    def _begin(self, epoch: int) -> None:
        """A new epoch: nothing of the old one is left."""
        assert self._new_engine is not None
        self._run = None
        engine = self._new_engine()
        self.vitals.begin(epoch)
        self.vitals.memory(*engine.memory())
        self._links = self._transport.new_links(epoch)
        self._run = Run(
            engine=engine,
            links=self._links,
            report=self._transport.report,
            vitals=self.vitals,
            is_first=self._stage == 0,
            is_last=self._stage == self._stages - 1,
        )
        self._transport.report(Listening(epoch=epoch, endpoint=self._links.endpoint))
