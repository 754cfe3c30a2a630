"""The numbers of a worker: written by the compute thread, read by the threads of the pulse and of the metrics server.

What is read elsewhere is replaced as a whole or only grows, so a reader needs no lock.
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from worker.protocol import BLOCK, Close, Heartbeat, StageTimes
from worker.telemetry.facts import Facts
from worker.telemetry.histograms import Histograms
from worker.telemetry.hops import Hops
from worker.telemetry.layer_times import LayerTimes
from worker.telemetry.memory import Memory
from worker.telemetry.percentile import percentile
from worker.telemetry.timesheet import Finished, Timesheet

SETTLE_STEPS = 16  # may be left uncounted while there is always something to do
MEASURE_SECONDS = 0.25  # counting state costs time, and a heartbeat is sent twice a second


class Totals(msgspec.Struct):
    """Sums over all steps since the worker started, seconds and rows."""

    steps: int = 0
    decode_steps: int = 0
    fallback_steps: int = 0
    rows_prefilled: int = 0
    rows_decoded: int = 0
    piece_rows: int = 0
    piece_seconds: float = 0.0
    compute: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    wait: float = 0.0

    def add(self, step: Finished, fused_rows: int) -> None:
        """One more step; the fused kernels take `fused_rows` rows, none if 0."""
        self.steps += 1
        self.compute += step.compute
        self.queue += step.queue
        self.encode += step.encode
        self.wait += step.wait
        if step.phase == "decode":
            self.decode_steps += 1
            self.rows_decoded += step.rows
            self.fallback_steps += step.rows > fused_rows
        else:
            self.rows_prefilled += step.rows
            if step.rows >= BLOCK:
                self.piece_rows += step.rows
                self.piece_seconds += step.compute


class Vitals:
    """What a stage's worker is doing and holds. `refused` tells the connections that were turned away, by reason."""

    def __init__(self, stage: int, histograms: Histograms) -> None:
        self.facts: Facts | None = None  # once the stage is loaded
        self.epoch = 0
        self.stale = self.duplicates = self.gaps = 0
        self.timesheet = Timesheet(stage)
        self.hops = Hops(histograms.hop)
        self.layer_times = LayerTimes()
        self.totals = Totals()
        self.memory = Memory()
        self.refused: Callable[[], Counter[str]] = Counter
        self._stage = stage
        self._histograms = histograms
        self._credits: Callable[[], int] = int
        self._measured = 0.0

    # --- the compute thread ---

    def begin(self, epoch: int, credits: Callable[[], int]) -> None:
        """A new epoch: no request is open. `credits` tells how many messages the new link may still take."""
        self.epoch = epoch
        self._credits = credits
        self.timesheet.begin()
        self.hops.begin()

    def step_finished(self, computed: float, ended: float, layer_seconds: Mapping[str, float] | None) -> None:
        """The oldest step in flight is handed over; `layer_seconds` if it was measured by kind of layer."""
        self.timesheet.landed(computed, ended)
        if layer_seconds is not None:
            self.settle()
            decodes = self._decode_seconds()
            usual = percentile(decodes, 0.5)
            self.layer_times.measured(layer_seconds, compute=decodes[-1], median=usual, now=ended)
        elif self.timesheet.unsettled >= SETTLE_STEPS:
            self.settle()

    def settle(self) -> None:
        """Count what has ended; to be called when there is nothing better to do."""
        for step in self.timesheet.settle():
            self.totals.add(step, self.facts.fused_rows if self.facts else 0)
            self._histograms.step(step)

    def is_measure_due(self, now: float) -> bool:
        """Whether the next decode step is to be measured by kind of layer."""
        return self.layer_times.is_due(self.totals.decode_steps, now)

    def closed(self, message: Close) -> tuple[StageTimes, ...]:
        """A request is over: the times of the stages before this one, and its own."""
        self.settle()
        return (*message.times, self.timesheet.closed(message.request, self.hops.mean))

    def memory_is_due(self, now: float) -> bool:
        """Whether the numbers of memory are old."""
        return now > self._measured + MEASURE_SECONDS

    def measure(self, memory: Memory) -> None:
        """What is in memory now."""
        self.memory = memory
        self._measured = time.monotonic()

    # --- any thread ---

    @property
    def credits(self) -> int:
        """Messages that may still be sent to the next stage."""
        return self._credits()

    def read_rate(self) -> float:
        """Weight bytes a second that the last decode steps had to read; 0 if there were none."""
        steps = self.timesheet.decodes.copy()
        seconds = sum(step.compute for step in steps)
        return sum(self.facts.read_bytes(step.rows) for step in steps) / seconds if self.facts and seconds else 0.0

    def heartbeat(self) -> Heartbeat:
        """All of it as a message."""
        since, memory, totals, decodes = self.timesheet.busy_since, self.memory, self.totals, self._decode_seconds()
        return Heartbeat(
            epoch=self.epoch,
            steps=totals.steps,
            busy_seconds=time.monotonic() - since if since else 0.0,
            step_seconds=sum(decodes) / len(decodes) if decodes else 0.0,
            memory_bytes=memory.active,
            state_bytes=memory.state,
            sequences=memory.sequences,
            stale_messages=self.stale,
            duplicate_messages=self.duplicates,
            gaps=self.gaps,
            snapshot_bytes=memory.snapshots,
            in_flight=self.timesheet.in_flight,
            credits=self.credits,
            peak_bytes=memory.peak,
            rows_prefilled=totals.rows_prefilled,
            rows_decoded=totals.rows_decoded,
            decode_steps=totals.decode_steps,
            compute_seconds=totals.compute,
            queue_seconds=totals.queue,
            encode_seconds=totals.encode,
            wait_seconds=totals.wait,
            hop_seconds=self.hops.mean,
            decode_p50=percentile(decodes, 0.5),
            decode_p95=percentile(decodes, 0.95),
            elapsed_seconds=time.monotonic(),
            piece_rows=totals.piece_rows,
            piece_seconds=totals.piece_seconds,
            refused=self.refused().total(),
        )

    def trace(self) -> dict[str, Any]:
        """The last steps, by this process's monotonic clock; the anchors are the same moment by two clocks."""
        return {
            "stage": self._stage,
            "pid": os.getpid(),
            "anchor_unix": time.time(),
            "anchor_monotonic": time.monotonic(),
            "steps": [
                (step.started, step.computed, step.ended, step.phase, step.rows, step.requests)
                for step in self.timesheet.steps.copy()
            ],
        }

    def _decode_seconds(self) -> list[float]:
        return [step.compute for step in self.timesheet.decodes.copy()]
