"""One epoch of a stage: requests come and go, steps start and finish, in order. Made anew for every epoch."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from worker.driver import Driver
from worker.engine import Engine, Pending
from worker.errors import ProtocolError
from worker.ledger import Ledger
from worker.links import Links, Received
from worker.protocol import (
    Activations,
    Chunk,
    Close,
    Closed,
    Fault,
    Lease,
    Message,
    Open,
    Segment,
    Tokens,
    check_activations,
)
from worker.vitals import Vitals


@dataclass(frozen=True, slots=True)
class _Flight:
    """What leaves this stage next: a step being computed or a message to pass on, and the message that caused it."""

    content: Pending | Open | Close
    cause: Received | None


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
        self._driver = Driver(run_ahead=1 if alone else 0)
        self._ledger = Ledger()
        self._work: deque[Received] = deque()
        self._flights: deque[_Flight] = deque()
        self._taken: Received | None = None  # tokens to acknowledge when the next step is under way

    # --- what arrives ---

    def order(self, message: Open | Chunk | Lease | Close) -> None:
        """The coordinator says what to run; stage 0 only."""
        if message.epoch != self._links.epoch:
            self._vitals.stale += 1
            return
        match message:
            case Open():
                self._driver.open(message)
                self._open(message, None)
            case Chunk():
                self._driver.chunk(message)
            case Lease():
                self._driver.lease(message)
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
            self._driver.tokens(message)
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
        return self._driver.has_work() if self._is_first else bool(self._work)

    def _start(self) -> None:
        engine = self._engine
        if self._is_first:
            step = self._driver.next()
            if step is not None:
                self._launch(step.segments, None, partial(engine.start_tokens, step.batch, step.segments, step.tokens))
            return
        received = self._work.popleft()
        match received.message:
            case Open() as message:
                self._open(message, received)
            case Close() as message:
                self._flights.append(_Flight(message, received))
            case Activations() as message:
                try:
                    check_activations(message, received.payload.nbytes, engine.hidden_size)
                except ProtocolError as error:
                    self._fault(error.code, error.message)
                else:
                    self._launch(message.segments, received, partial(engine.start_hidden, message, received.payload))
            case message:
                self._unexpected(message)

    def _open(self, message: Open, cause: Received | None) -> None:
        self._ledger.open(message.request)
        self._engine.open(message)
        self._flights.append(_Flight(message, cause))

    def _launch(self, segments: tuple[Segment, ...], cause: Received | None, start: Callable[[], Pending]) -> None:
        """Apply rows if they are the next ones of their requests; the position rule of `worker.ledger`."""
        match self._ledger.judge(segments):
            case "apply":
                self._ledger.advance(segments)
                self._vitals.step_started()
                self._flights.append(_Flight(start(), cause))
            case "duplicate":
                self._vitals.duplicates += 1
                if cause is not None:
                    self._links.acknowledge(cause)
            case verdict:
                self._fault(verdict, f"rows {segments} are not the next ones of their requests")

    def _finish(self, flight: _Flight) -> None:
        """Wait for a step and send its result on, or pass a message on in its turn."""
        match flight.content:
            case Pending() as pending:
                output = self._engine.finish(pending, self._links.epoch)
                more = any(isinstance(other.content, Pending) for other in self._flights)
                self._vitals.step_finished(decode=pending.batch is not None, more=more)
                if isinstance(output, Tokens):
                    self._send_tokens(output)
                elif output is not None:
                    self._links.send(*output)
            case Close(request=request) as message:
                self._ledger.close(request)
                self._engine.close(request)
                if self._is_last:
                    self._report(Closed(epoch=self._links.epoch, request=request))
                else:
                    self._links.send(message)
            case Open() as message:
                if not self._is_last:
                    self._links.send(message)
        if isinstance(flight.content, Close) or self._vitals.memory_is_due():
            self._vitals.memory(*self._engine.memory())
        if flight.cause is not None:
            self._links.acknowledge(flight.cause)

    def _send_tokens(self, tokens: Tokens) -> None:
        if self._is_first:
            self._driver.tokens(tokens)
        else:
            self._links.send(tokens)
        self._report(tokens)

    def _unexpected(self, message: Message) -> None:
        self._fault("unexpected_message", f"{type(message).__name__} from the upstream neighbour")

    def _fault(self, code: str, message: str) -> None:
        self._report(Fault(epoch=self._links.epoch, code=code, message=message))
