"""A worker's life and its compute loop: load, link, then start and finish steps until told to stop."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from worker.driver import Driver
from worker.engine import Engine, Output, Pending
from worker.errors import ProtocolError, StagelineError, UserError
from worker.ledger import Ledger
from worker.protocol import (
    Activations,
    Assign,
    Chunk,
    Close,
    Closed,
    Connect,
    Failed,
    Fault,
    Hello,
    Lease,
    Linked,
    Listen,
    Loaded,
    Loading,
    Message,
    Open,
    Segment,
    Stop,
    Tokens,
    check_activations,
)
from worker.transport import Acked, Broken, Event, FromControl, FromLink, Transport
from worker.vitals import Vitals

MAX_STEPS_IN_FLIGHT = 2
WINDOW_MESSAGES = 16
WINDOW_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class _Flight:
    """What leaves this stage next: a step being computed or a message to pass on, and the message it answers."""

    content: Pending | Open | Close
    sequence: int | None


class Service:
    """One worker process, seen from its compute thread: the main thread, the only one that touches MLX.

    `vitals` are the numbers for the pulse.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        stage: int,
        stages: int,
        load: Callable[[Assign, Callable[[int, int], None]], Engine],
    ) -> None:
        self._transport = transport
        self._load_engine = load
        self._stage = stage
        self._is_first = stage == 0
        self._is_last = stage == stages - 1
        self._epoch = 0
        self._engine: Engine | None = None
        self.vitals = Vitals()
        self._driver = Driver(run_ahead=1 if stages == 1 else 0)
        self._ledger: Ledger[Output] = Ledger()
        self._work: deque[FromLink] = deque()
        self._flights: deque[_Flight] = deque()
        self._unacked: deque[tuple[int, int]] = deque()
        self._stopping = False

    def run(self, hello: Hello) -> int:
        """Serve until stopped; returns the exit status."""
        self._transport.report(hello)
        try:
            while not self._stopping:
                self.turn(wait=True)
        except StagelineError as error:
            self._fail(error.code, error.message, isinstance(error, UserError))
            return error.exit_status
        except (RuntimeError, MemoryError, OSError) as error:  # MLX raises RuntimeError: out of memory, lost GPU
            self._fail("worker_failed", f"{type(error).__name__}: {error}", False)
            return 1
        finally:
            self._transport.close()
        return 0

    def terminate(self) -> None:
        """Leave after the current step; may be called from a signal handler."""
        self._stopping = True

    def _fail(self, code: str, message: str, user: bool) -> None:
        self._transport.report(Failed(code=code, message=message, user=user))

    # --- the loop ---

    def turn(self, *, wait: bool) -> bool:
        """Take what has arrived, then start a step if one can start, else finish the oldest one in flight.

        With nothing to do it waits a while for the next event; returns whether it did anything.
        """
        idle = not self._flights and not self._can_start()
        events = self._transport.events(wait=wait and idle)
        for event in events:
            self._take(event)
        if self._can_start():
            self._start()
        elif self._flights:
            self._finish(self._flights.popleft())
        else:
            return bool(events)
        return True

    def _can_start(self) -> bool:
        if len(self._flights) >= MAX_STEPS_IN_FLIGHT:
            return False
        if len(self._unacked) + len(self._flights) >= WINDOW_MESSAGES:
            return False
        if sum(size for _, size in self._unacked) >= WINDOW_BYTES:
            return False
        return self._driver.has_work() if self._is_first else bool(self._work)

    def _take(self, event: Event) -> None:
        match event:
            case FromControl(message):
                self._order(message)
            case FromLink(sequence, Tokens() as tokens) if self._is_first:
                if self._is_current(tokens.epoch):
                    self._driver.tokens(tokens)
                    self._transport.acknowledge(sequence)
            case FromLink():
                self._work.append(event)
            case Acked(sequence):
                while self._unacked and self._unacked[0][0] <= sequence:
                    self._unacked.popleft()
            case Broken(reason):
                self._transport.report(Fault(epoch=self._epoch, code="broken_link", message=reason))

    def _order(self, message: Message) -> None:
        match message:
            case Assign():
                self._load(message)
            case Listen(epoch=epoch):
                self._begin(epoch)
            case Connect(epoch=epoch, endpoint=endpoint):
                if epoch == self._epoch:
                    if endpoint is not None:
                        self._transport.connect(endpoint)
                    self._transport.report(Linked(epoch=epoch))
            case Stop():
                self._stopping = True
            case Open() if self._is_current(message.epoch):
                self._driver.open(message)
                self._admit(message, None)
            case Chunk() if self._is_current(message.epoch):
                self._driver.chunk(message)
            case Lease() if self._is_current(message.epoch):
                self._driver.lease(message)
            case Close() if self._is_current(message.epoch):
                self._driver.close(message.request)
                self._flights.append(_Flight(message, None))
            case _:
                pass  # of an old epoch, counted

    def _is_current(self, epoch: int) -> bool:
        if epoch == self._epoch:
            return True
        self.vitals.stale += 1
        return False

    def _load(self, assign: Assign) -> None:
        def progress(loaded: int, total: int) -> None:
            if self._stopping:
                raise SystemExit(0)
            self._transport.report(Loading(loaded_bytes=loaded, total_bytes=total))

        self._engine = self._load_engine(assign, progress)
        memory = self._engine.memory()
        self.vitals.memory(*memory)
        self._transport.report(Loaded(memory_bytes=memory[0], dtype=self._engine.dtype))

    def _begin(self, epoch: int) -> None:
        """A new epoch: nothing of the old one is left."""
        assert self._engine is not None
        self._epoch = epoch
        self.vitals.begin(epoch)
        self._flights.clear()
        self._work.clear()
        self._unacked.clear()
        self._driver.clear()
        self._ledger.clear()
        self._engine.clear()
        self.vitals.memory(*self._engine.memory())
        self._transport.listen(epoch)

    def _admit(self, message: Open, sequence: int | None) -> None:
        assert self._engine is not None
        self._ledger.open(message.request)
        self._engine.open(message)
        self._flights.append(_Flight(message, sequence))

    # --- starting ---

    def _start(self) -> None:
        """Start the next piece of work."""
        assert self._engine is not None
        engine = self._engine
        if self._is_first:
            step = self._driver.next()
            if step is not None:
                self._launch(step.segments, None, lambda: engine.start_tokens(step.batch, step.segments, step.tokens))
            return
        event = self._work.popleft()
        message, sequence = event.message, event.sequence
        if not self._is_current(message.epoch):
            return
        match message:
            case Open():
                self._admit(message, sequence)
            case Close():
                self._flights.append(_Flight(message, sequence))
            case Activations():
                try:
                    check_activations(message, event.payload.nbytes, engine.hidden_size)
                except ProtocolError as error:
                    self._fault(error.code, error.message)
                    return
                self._launch(message.segments, sequence, lambda: engine.start_hidden(message, event.payload))
            case _:
                self._fault("unexpected_message", f"stage {self._stage} got {type(message).__name__} from upstream")

    def _launch(self, segments: tuple[Segment, ...], sequence: int | None, start: Callable[[], Pending]) -> None:
        """Apply rows if they are the next ones of their requests; the position rule of `worker.ledger`."""
        verdict = self._ledger.judge(segments)
        if verdict == "apply":
            self._ledger.advance(segments)
            self.vitals.step_started()
            self._flights.append(_Flight(start(), sequence))
            return
        if sequence is not None:
            self._transport.acknowledge(sequence)
        if verdict == "duplicate":
            self.vitals.duplicates += 1
            output = self._ledger.recall(segments)
            if output is not None:
                self._emit(output)
            return
        self._fault(verdict, f"stage {self._stage} got rows {segments} that are not the next ones of their requests")

    def _fault(self, code: str, message: str) -> None:
        self._transport.report(Fault(epoch=self._epoch, code=code, message=message))

    # --- finishing ---

    def _finish(self, flight: _Flight) -> None:
        """Wait for a step and send its result on, or pass a message on in its turn."""
        assert self._engine is not None
        match flight.content:
            case Pending() as pending:
                output = self._engine.finish(pending, self._epoch)
                more = any(isinstance(other.content, Pending) for other in self._flights)
                self.vitals.step_finished(decode=pending.batch is not None, more=more)
                self._ledger.remember(pending.segments, output)
                self._emit(output)
            case Close(request=request) as message:
                self._ledger.close(request)
                self._engine.close(request)
                if self._is_last:
                    self._transport.report(Closed(epoch=self._epoch, request=request))
                else:
                    self._forward(message)
            case Open() as message:
                if not self._is_last:
                    self._forward(message)
        if isinstance(flight.content, Close) or self.vitals.memory_is_due():
            self.vitals.memory(*self._engine.memory())
        if flight.sequence is not None:
            self._transport.acknowledge(flight.sequence)

    def _emit(self, output: Output) -> None:
        if isinstance(output, Tokens):
            if self._is_first:
                self._driver.tokens(output)
            else:
                self._forward(output)
            self._transport.report(output)
        elif output is not None:
            self._forward(*output)

    def _forward(self, message: Message, payload: memoryview | None = None) -> None:
        sequence = self._transport.send(message, payload)
        self._unacked.append((sequence, payload.nbytes if payload is not None else 0))
