"""The series of a worker that are read at a scrape, from numbers that it keeps anyway."""

from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from worker.links.gate import REASONS
from worker.telemetry import metrics
from worker.telemetry.facts import Facts
from worker.telemetry.layer_times import KINDS
from worker.telemetry.series import Series
from worker.telemetry.vitals import Vitals
from worker.version import VERSION


class WorkerCollector(Collector):
    """Reads `vitals` of this stage, in the thread of the scrape."""

    def __init__(self, stage: int, vitals: Vitals) -> None:
        self._stage = str(stage)
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        vitals, memory, totals = self._vitals, self._vitals.memory, self._vitals.totals
        if vitals.facts is not None:
            yield from self._loaded(vitals.facts)
        yield self._single(metrics.FALLBACK_STEPS, totals.fallback_steps)
        yield self._single(metrics.STATE_BYTES, memory.state)
        yield self._single(metrics.SNAPSHOT_BYTES, memory.snapshots)
        yield self._single(metrics.SEQUENCES, memory.sequences)
        yield self._single(metrics.MEMORY_ACTIVE_BYTES, memory.active)
        yield self._single(metrics.MEMORY_PEAK_BYTES, memory.peak)
        yield self._single(metrics.EPOCH, vitals.epoch)
        yield self._single(metrics.IN_FLIGHT, vitals.timesheet.in_flight)
        yield self._single(metrics.CREDITS, vitals.credits)
        yield self._single(metrics.HOP_BYTES, vitals.hops.nbytes)
        yield self._each(metrics.ROWS, {"prefill": totals.rows_prefilled, "decode": totals.rows_decoded})
        yield self._single(metrics.DUPLICATES, vitals.duplicates)
        yield self._single(metrics.GAPS, vitals.gaps)
        yield self._single(metrics.STALE_MESSAGES, vitals.stale)
        refused = vitals.refused()
        yield self._each(metrics.REFUSED, {reason: refused[reason] for reason in REASONS})
        yield self._each(metrics.LAYER_SECONDS, vitals.layer_times.seconds)
        yield self._single(metrics.SAMPLED_STEPS, vitals.layer_times.steps)

    def _loaded(self, facts: Facts) -> Iterator[Metric]:
        info = metrics.INFO.family()
        layers = f"{facts.first}-{facts.end - 1}"
        info.add_metric((self._stage, layers, facts.pattern, facts.backend, facts.host, VERSION), 1)
        yield info
        counts = Counter(facts.pattern)
        yield self._each(metrics.LAYERS, {kind: counts[letter] for letter, kind in KINDS.items()})
        yield self._single(metrics.FUSED_LAYERS, facts.fused_layers)
        yield self._single(metrics.PARAMETER_BYTES, facts.parameter_bytes)
        yield self._single(metrics.READ_RATE, self._vitals.read_rate())
        yield self._single(metrics.BANDWIDTH, facts.bandwidth)

    def _single(self, series: Series, value: float) -> Metric:
        family = series.family()
        family.add_metric((self._stage,), value)
        return family

    def _each(self, series: Series, values: Mapping[str, float]) -> Metric:
        """One value for each value of the series' other label."""
        family = series.family()
        for label, value in values.items():
            family.add_metric((self._stage, label), value)
        return family
