"""What a Prometheus series is: the exporters and docs/metrics.md are made of the same definitions; no MLX."""

from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

# a step of the demo model takes half a millisecond, one of a long prompt on a slow machine seconds
STEP_BUCKETS = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Series(msgspec.Struct, frozen=True, kw_only=True):
    """One series under all its label values. `unit` says what one is; `empty` when there is nothing to see, "" if
    there always is something; `buckets` are the upper bounds of a histogram.

    A value that something else keeps already is a `family`, made anew at every scrape; the others count by themselves.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    empty: str = ""

    def counter(self, registry: CollectorRegistry) -> Counter:
        """A counter to be increased."""
        return Counter(self.name, self.meaning, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """A histogram to observe with."""
        return Histogram(self.name, self.meaning, self.labels, registry=registry, buckets=self.buckets)

    def family(self) -> GaugeMetricFamily | CounterMetricFamily:
        """What a collector yields at a scrape: `add_metric(label values, value)` fills it."""
        kind = CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        return kind(self.name, self.meaning, labels=self.labels)


def new_registry() -> CollectorRegistry:
    """An empty registry; counters and histograms come without the times at which they were made."""
    disable_created_metrics()
    return CollectorRegistry()
