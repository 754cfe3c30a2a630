"""One epoch of a stage: requests come and go, steps start and finish, in order. Made anew for every epoch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import monotonic

from msgspec.structs import replace

from worker.driver import Driver
from worker.errors import ProtocolError
from worker.links.ledger import Ledger
from worker.links.links import Links, Received
from worker.links.outbox import Outbox
from worker.links.wire import check_activations
from worker.model.engine import Engine, Pending
from worker.protocol import (
    Activations,
    Chunk,
    Close,
    Closed,
    Drop,
    Fault,
    Lease,
    Message,
    Open,
    Save,
    Saved,
    Segment,
    Tokens,
)
from worker.telemetry.vitals import Vitals


@dataclass(frozen=True, slots=True)
class _Flight:
    """What leaves this stage next: a step being computed or a message to pass on, and the message that caused it.

    `batches` is that of `Activations`.
    """

    content: Pending | Open | Save | Drop | Close
    cause: Received | None
    batches: tuple[int, ...] = ()


class Run:
    """The step loop's state for one epoch. `report` sends to the coordinator.

    Where MLX computes while Python goes on, two steps are in flight, so that the next one's graph is built meanwhile.
    A single stage also starts a batch's next step before it has read the last one's tokens, which are on its device.
    """

    def __init__(
        self,
        *,
        engine: Engine,
        links: Links,
        report: Callable[[Message], None],
        vitals: Vitals,
        is_first: bool,
        is_last: bool,
    ) -> None:
        self._engine = engine
        self._links = links
        self._report = report
        self._vitals = vitals
        self._is_first = is_first
        self._is_last = is_last
        alone = is_first and is_last
        self._most_flights = 2 if alone or engine.computes_in_background else 1
        self._outbox = Outbox(links.send)
        self._driver = Driver(run_ahead=1 if alone else 0)
        self._ledger = Ledger()
        self._work: deque[Received] = deque()
        self._flights: deque[_Flight] = deque()
        self._taken: Received | None = None  # tokens to acknowledge when the next step is under way
        self._measure_next = False  # by kind of layer, if it is a decode step

    # --- what arrives ---

    def order(self, message: Open | Chunk | Lease | Save | Drop | Close, now: float) -> None:
        """The coordinator says what to run; stage 0 only."""
        if message.epoch != self._links.epoch:
            self._vitals.stale += 1
            return
        match message:
            case Open():
                self._driver.open(message)
                self._open(message, None)
            case Chunk():
                self._driver.chunk(message, now)
            case Lease():
                self._driver.lease(message, now)
            case Save():
                self._save(message, None)
            case Drop():
                self._drop(message, None)
            case Close(request=request):
                self._driver.close(request)
                self._flights.append(_Flight(message, None))

    def receive(self, received: Received) -> None:
        """The upstream neighbour sent something."""
        message = received.message
        if message.epoch != self._links.epoch:
            self._vitals.stale += 1
        elif not self._is_first:
            self._work.append(received)
        elif isinstance(message, Tokens):
            self._driver.tokens(message, received.at)
            self._taken = received
        else:
            self._unexpected(message)

    # --- what there is to do ---

    @property
    def is_idle(self) -> bool:
        """Whether `work` has nothing to do until something arrives."""
        return self._taken is None and not self._flights and not self._can_start()

    def work(self) -> None:
        """Start a step if one can start, else finish the oldest one in flight."""
        if self._can_start():
            self._start()
        elif self._flights:
            self._finish(self._flights.popleft())
        if self._taken is not None:  # acknowledgements are cumulative: the last one says it all
            self._links.acknowledge(self._taken)
            self._taken = None

    def _can_start(self) -> bool:
        if len(self._flights) >= self._most_flights or not self._links.has_room:
            return False
        if self._measure_next and self._flights:
            return False  # such a step runs alone
        return self._driver.has_work() if self._is_first else bool(self._work)

    def _start(self) -> None:
        engine = self._engine
        if self._is_first:
            step = self._driver.next()
            if step is not None:
                start = partial(engine.start_tokens, step.batch, step.segments, step.tokens)
                self._launch(step.batch, step.segments, step.since, None, step.batches, start)
                if step.save is not None:
                    (segment,) = step.segments
                    end = segment.first + segment.count
                    epoch = self._links.epoch
                    self._save(Save(epoch=epoch, request=segment.request, first=end, names=(step.save,)), None)
            return
        received = self._work.popleft()
        match received.message:
            case Open() as message:
                self._open(message, received)
            case Save() as message:
                self._save(message, received)
            case Drop() as message:
                self._drop(message, received)
            case Close() as message:
                self._flights.append(_Flight(message, received))
            case Activations() as message:
                try:
                    check_activations(message, received.payload.nbytes, engine.hidden_size)
                except ProtocolError as error:
                    self._fault(error.code, error.message)
                else:
                    start = partial(engine.start_hidden, message, received.payload)
                    self._launch(message.batch, message.segments, received.at, received, message.batches, start)
            case message:
                self._unexpected(message)

    def _open(self, message: Open, cause: Received | None) -> None:
        try:
            self._engine.open(message)
        except ProtocolError as error:  # it is to begin from a snapshot that is not here
            self._fault(error.code, error.message)
            return
        self._ledger.open(message.request, message.first)
        self._vitals.timesheet.opened(message.request, monotonic())
        self._flights.append(_Flight(message, cause))

    def _save(self, message: Save, cause: Received | None) -> None:
        position = self._ledger.position(message.request)
        place = -1 if position is None else position - message.first
        if position is None or not 0 <= place < len(message.names):
            self._fault(
                "gap", f"request {message.request} is at position {position}, a snapshot is due at {message.first}"
            )
            return
        name = message.names[place]
        nbytes = (*message.nbytes, self._engine.save(message.request, position, name))
        self._flights.append(_Flight(replace(message, first=position, names=(name,), nbytes=nbytes), cause))

    def _drop(self, message: Drop, cause: Received | None) -> None:
        # now and not in its turn: the next message may save the same snapshot again
        self._engine.drop(message.snapshot)
        self._flights.append(_Flight(message, cause))

    def _launch(
        self,
        batch: int | None,
        segments: tuple[Segment, ...],
        since: float,
        cause: Received | None,
        batches: tuple[int, ...],
        start: Callable[..., Pending],
    ) -> None:
        """Apply rows if they are the next ones of their requests; the position rule of `worker.links.ledger`.

        What the step needs has been here `since`.
        """
        now = monotonic()
        match self._ledger.judge(segments):
            case "apply":
                self._ledger.advance(segments)
                decode = batch is not None
                self._vitals.timesheet.launched("decode" if decode else "prefill", segments, since=since, now=now)
                measured, self._measure_next = self._measure_next and decode, False
                self._flights.append(_Flight(start(measured=measured), cause, batches))
            case "duplicate":
                self._vitals.duplicates += 1
                if cause is not None:
                    self._links.acknowledge(cause)
            case verdict:
                self._vitals.gaps += 1
                self._fault(verdict, f"rows {segments} are not the next ones of their requests")

    def _finish(self, flight: _Flight) -> None:
        """Wait for a step and send its result on, or pass a message on in its turn."""
        content = flight.content
        match content:
            case Pending():
                output = self._engine.finish(content, self._links.epoch)
                computed = monotonic()
                ended = computed if output is None else self._hand_over(flight.batches, output)
                # nothing that can wait comes before this line
                self._vitals.step_finished(computed, ended, content.layer_seconds)
                self._measure_next = content.batch is not None and self._vitals.is_measure_due(ended)
                memory_is_due = self._vitals.memory_is_due(ended)
            case Close(request=request):
                self._ledger.close(request)
                self._engine.close(request)
                times = self._vitals.closed(content)
                if self._is_last:
                    self._report(Closed(epoch=self._links.epoch, request=request, times=times))
                else:
                    self._outbox.message(replace(content, times=times))
                memory_is_due = True
            case Save(names=(name,)):
                self._engine.write(name)
                if self._is_last:
                    epoch, request, nbytes = content.epoch, content.request, content.nbytes
                    self._report(Saved(epoch=epoch, request=request, snapshot=name, nbytes=nbytes))
                else:
                    self._outbox.message(content)
                memory_is_due = True
            case message:
                if not self._is_last:
                    self._outbox.message(message)
                memory_is_due = isinstance(message, Drop)
        if flight.cause is not None:
            self._links.acknowledge(flight.cause)
        if memory_is_due:
            self._vitals.measure(self._engine.memory())

    def _hand_over(self, batches: tuple[int, ...], output: tuple[Activations, memoryview] | Tokens) -> float:
        """Send a step's result on; returns when the next stage could have it."""
        if not isinstance(output, Tokens):
            header, payload = output
            if header.batch is not None:
                return self._outbox.step(header, payload)
            self._outbox.piece(replace(header, batches=batches), payload)
            return monotonic()
        if not self._is_first:
            ended = self._links.send(output)
            self._report(output)
            return ended
        self._report(output)
        ended = monotonic()
        self._driver.tokens(output, ended)
        return ended

    def _unexpected(self, message: Message) -> None:
        self._fault("unexpected_message", f"{type(message).__name__} from the upstream neighbour")

    def _fault(self, code: str, message: str) -> None:
        self._report(Fault(epoch=self._links.epoch, code=code, message=message))
