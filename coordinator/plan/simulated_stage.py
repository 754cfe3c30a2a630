"""One stage of a simulated pipeline: what waits there, how long it computes, and when its result arrives. Pure."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from coordinator.plan.clock import Clock
from worker.links.outbox import Outbox
from worker.protocol import Activations, Close, Message, Open

NOTHING = memoryview(b"")


class Clockwork(Protocol):
    """How long everything takes, in seconds."""

    @property
    def stages(self) -> int:
        """Number of stages."""
        ...

    def capacity(self) -> int:
        """How many of them compute at the same time."""
        ...

    def decode(self, stage: int, batch: int, positions: int) -> float:
        """A decode step of so many sequences, so many positions long on average."""
        ...

    def prefill(self, stage: int, rows: int, positions: int, sampled: int) -> float:
        """A piece of a prompt behind so many positions; `sampled` is 1 if it is the last one."""
        ...

    def hop(self, stage: int, rows: int) -> tuple[float, float]:
        """The link after the stage: seconds that a result of so many rows occupies it, and latency."""
        ...


class SimulatedStage:
    """Stage `index`; `forward` gets what arrives at the next one, tokens of the last one arrive at the first.

    Results leave by the worker's own rules (`worker.links.outbox`), wait until the link is free, occupy it for their
    transfer and arrive after the latency.
    """

    def __init__(self, index: int, clockwork: Clockwork, clock: Clock, forward: Callable[[Message], None]) -> None:
        self.queue: deque[Message] = deque()
        self.working = False
        self.seconds = 0.0
        self._index, self._clockwork, self._clock, self._forward = index, clockwork, clock, forward
        self._outbox = Outbox(self._send)
        self._link_is_free = 0.0

    def compute(self, message: Message) -> float:
        """Begins; returns for how long the stage will be busy."""
        self.working = True
        seconds = self._compute_seconds(message)
        self.seconds += seconds
        return seconds

    def pass_on(self, message: Message) -> None:
        """Hand the result to the next stage."""
        match message:
            case Activations(batch=None):
                self._outbox.piece(message, NOTHING)
            case Activations():
                self._outbox.step(message, NOTHING)
            case Open() | Close():
                self._outbox.message(message)
            case _:
                self._send(message)

    def _compute_seconds(self, message: Message) -> float:
        match message:
            case Activations(batch=None, segments=(segment,)):
                return self._clockwork.prefill(self._index, segment.count, segment.first, int(segment.sample))
            case Activations(segments=segments):
                mean = sum(segment.first for segment in segments) // len(segments)
                return self._clockwork.decode(self._index, len(segments), mean)
            case _:
                return 0.0

    def _send(self, message: Message, payload: memoryview = NOTHING) -> float:
        rows = message.shape[0] if isinstance(message, Activations) else 0
        occupied, latency = self._clockwork.hop(self._index, rows)
        self._link_is_free = max(self._clock.now, self._link_is_free) + occupied
        arrival = self._link_is_free + latency
        self._clock.at(arrival, partial(self._forward, message))
        return arrival
