"""The histograms of a worker: the only series that the compute thread writes itself, four observations a step."""

from prometheus_client import CollectorRegistry, Histogram

from worker.telemetry import metrics
from worker.telemetry.series import Series
from worker.telemetry.timesheet import Finished


class Histograms:
    """`hop` observes the seconds of one measured hop."""

    def __init__(self, registry: CollectorRegistry, stage: int) -> None:
        def single(series: Series) -> Histogram:
            return series.histogram(registry).labels(str(stage))

        def by_phase(series: Series) -> dict[str, Histogram]:
            family = series.histogram(registry)
            return {phase: family.labels(str(stage), phase) for phase in ("prefill", "decode")}

        self._queue = by_phase(metrics.QUEUE_SECONDS)
        self._compute = by_phase(metrics.COMPUTE_SECONDS)
        self._encode = by_phase(metrics.ENCODE_SECONDS)
        self._wait = single(metrics.WAIT_SECONDS)
        self.hop = single(metrics.HOP_SECONDS).observe

    def step(self, step: Finished) -> None:
        """A step has ended."""
        self._queue[step.phase].observe(step.queue)
        self._compute[step.phase].observe(step.compute)
        self._encode[step.phase].observe(step.encode)
        if step.wait > 0:
            self._wait.observe(step.wait)
