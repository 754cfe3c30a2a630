"""The numbers of a worker's heartbeat: written by the compute thread, read by the pulse's thread."""

import time
from collections import deque

from worker.protocol import Heartbeat

MEASURE_SECONDS = 0.25  # counting state costs time, and a heartbeat is sent twice a second
LAST_STEPS = 64


class Vitals:
    """What the worker is doing and holds. Every attribute is replaced as a whole, so a reader needs no lock."""

    def __init__(self) -> None:
        self.stale = 0
        self.duplicates = 0
        self._epoch = 0
        self._steps = 0
        self._started = 0.0
        self._measured = 0.0
        self._memory = (0, 0, 0)
        self._step_seconds = 0.0
        self._decode_seconds: deque[float] = deque(maxlen=LAST_STEPS)

    def begin(self, epoch: int) -> None:
        """A new epoch: no step is under way."""
        self._epoch = epoch
        self._started = 0.0

    def step_started(self) -> None:
        """A step was launched; it is timed from here, or from the end of the one before."""
        self._started = self._started or time.monotonic()

    def step_finished(self, *, decode: bool, more: bool) -> None:
        """The oldest step is done; `more`: another one is in flight. Steps overlap by their graph building only."""
        now = time.monotonic()
        if decode:
            self._decode_seconds.append(now - self._started)
            self._step_seconds = sum(self._decode_seconds) / len(self._decode_seconds)
        self._steps += 1
        self._started = now if more else 0.0

    def memory_is_due(self) -> bool:
        """Whether the numbers of memory are old."""
        return time.monotonic() > self._measured + MEASURE_SECONDS

    def memory(self, memory_bytes: int, state_bytes: int, sequences: int) -> None:
        """What MLX holds, how much of it is state, and of how many sequences."""
        self._memory = (memory_bytes, state_bytes, sequences)
        self._measured = time.monotonic()

    def heartbeat(self) -> Heartbeat:
        """All of it as a message."""
        started, (memory_bytes, state_bytes, sequences) = self._started, self._memory
        return Heartbeat(
            epoch=self._epoch,
            steps=self._steps,
            busy_seconds=time.monotonic() - started if started else 0.0,
            step_seconds=self._step_seconds,
            memory_bytes=memory_bytes,
            state_bytes=state_bytes,
            sequences=sequences,
            stale_messages=self.stale,
            duplicate_messages=self.duplicates,
        )
