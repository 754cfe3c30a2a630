"""A worker's life: say hello, load what is assigned, link for an epoch and run it, until told to stop."""

import gc
import logging
import time
from collections.abc import Callable
from typing import Any

from worker.errors import LinkLostError, ProtocolError, StagelineError, UserError
from worker.links.links import Links
from worker.links.transport import Transport
from worker.model.engine import Engine
from worker.protocol import (
    Assign,
    Chunk,
    Close,
    Connect,
    Drop,
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
    Save,
    Stop,
)
from worker.run import Run
from worker.telemetry.collector import WorkerCollector
from worker.telemetry.facts import Facts
from worker.telemetry.histograms import Histograms
from worker.telemetry.series import new_registry
from worker.telemetry.vitals import Vitals

log = logging.getLogger("stageline.worker")

Progress = Callable[[int, int], None]
NewEngine = Callable[[], Engine]
Load = Callable[[Assign, Progress], tuple[NewEngine, Facts]]


class Service:
    """One worker process, seen from its compute thread: the main thread, the only one that touches MLX.

    `load` reads the assigned layers and returns what makes an engine with no requests; `vitals` are the numbers for
    the pulse, `registry` those for Prometheus.
    """

    def __init__(self, transport: Transport, *, stage: int, stages: int, load: Load) -> None:
        self.registry = new_registry()
        self.vitals = Vitals(stage, Histograms(self.registry, stage))
        self.registry.register(WorkerCollector(stage, self.vitals))
        self._transport = transport
        self._load = load
        self._stage = stage
        self._stages = stages
        self._hello: Hello | None = None
        self._new_engine: NewEngine | None = None
        self._links: Links | None = None
        self._run: Run | None = None
        self._linked = False  # and the coordinator knows
        self._stopping = False
        self._waited = False  # since the last turn

    def run(self, hello: Hello) -> int:
        """Serve until stopped; returns the exit status."""
        self._hello = hello
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
        now = time.monotonic()
        # links first: what they hold belongs to the epoch that an order may end
        arrived = self._receive(now)
        if self._transport.has_regained_control():
            self._say_where_it_stands()
        orders = self._transport.orders()
        for message in orders:
            self._obey(message, now)
        busy = self._run is not None and not self._run.is_idle
        if self._run is not None and busy:
            self._run.work()
        if self._links is not None:
            self._links.send_receipt()
        self._waited = not (busy or arrived or orders)
        if self._waited:
            self.vitals.settle()
        return not self._waited

    def _receive(self, now: float) -> bool:
        """Whether the links had any news."""
        if self._links is None or self._run is None:
            return False
        try:
            arrived = self._links.receive(now, self._waited)
        except (ProtocolError, LinkLostError) as error:
            code = error.code if isinstance(error, LinkLostError) else "broken_link"
            self._transport.report(Fault(epoch=self._links.epoch, code=code, message=error.message))
            return True
        for received in arrived:
            self._run.receive(received)
        if self._links.is_linked and not self._linked:
            self._linked = True
            self._transport.report(Linked(epoch=self._links.epoch))
            return True
        return bool(arrived)

    def _say_where_it_stands(self) -> None:
        """The coordinator was away for a moment: an order or a report may be lost."""
        if self._links is not None:
            reason = "the connection to the coordinator was lost for a moment"
            self._transport.report(Fault(epoch=self._links.epoch, code="link_lost", message=reason))
        elif self._new_engine is not None:
            self._report_loaded()
        elif self._hello is not None:
            self._transport.report(self._hello)

    def _obey(self, message: Any, now: float) -> None:
        match message:
            case Assign():
                if self._new_engine is None:  # else it was sent again
                    self._assigned(message)
            case Listen():
                self._begin(message)
            case Connect(epoch=epoch, endpoint=endpoint, server=server):
                if self._links is not None and epoch == self._links.epoch:
                    self._links.connect(endpoint, server)
            case Stop():
                self._stopping = True
            case Open() | Chunk() | Lease() | Save() | Drop() | Close():
                if self._run is not None:
                    self._run.order(message, now)
            case _:
                raise ProtocolError(f"stage {self._stage} cannot obey {type(message).__name__}")

    def _assigned(self, assign: Assign) -> None:
        def progress(loaded: int, total: int) -> None:
            if self._stopping:
                raise SystemExit(0)
            self._transport.report(Loading(loaded_bytes=loaded, total_bytes=total))

        self._new_engine, facts = self._load(assign, progress)
        engine = self._new_engine()
        gc.collect()
        gc.freeze()  # what is loaded stays: looking through it again and again would stall steps
        self.vitals.facts = facts
        self.vitals.measure(engine.memory())
        self._report_loaded()

    def _report_loaded(self) -> None:
        facts = self.vitals.facts
        assert facts is not None
        self._transport.report(
            Loaded(
                fused_layers=facts.fused_layers,
                parameter_bytes=facts.parameter_bytes,
                bandwidth=facts.bandwidth,
                state=facts.state,
                memory=facts.memory,
                usable_bytes=facts.usable_bytes,
            )
        )

    def _begin(self, listen: Listen) -> None:
        """A new epoch: nothing of the old one is left but snapshots."""
        assert self._new_engine is not None
        epoch = listen.epoch
        self._run = self._links = None
        self._linked = False
        engine = self._new_engine()
        self._links = self._transport.new_links(epoch, self.vitals.hops, remote=listen.remote, peer=listen.peer)
        self.vitals.begin(epoch, self._links.credits)
        self.vitals.measure(engine.memory())
        self._run = Run(
            engine=engine,
            links=self._links,
            report=self._transport.report,
            vitals=self.vitals,
            is_first=self._stage == 0,
            is_last=self._stage == self._stages - 1,
        )
        self._transport.report(Listening(epoch=epoch, endpoint=self._links.endpoint, held=engine.held))
