"""The series that are read at a scrape: the state of the cluster, and totals that are counted anyway."""

from collections.abc import Callable, Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from coordinator.telemetry import metrics
from coordinator.telemetry.observer import Observer
from coordinator.view import ClusterView
from worker.links.gate import REASONS
from worker.telemetry.series import Series


class ClusterCollector(Collector):
    """`view` gives the state of the cluster now."""

    def __init__(self, view: Callable[[], ClusterView], observer: Observer) -> None:
        self._view = view
        self._observer = observer

    def collect(self) -> Iterator[Metric]:
        """All of them, as they are now."""
        view, observer = self._view(), self._observer
        info = metrics.INFO.family()
        info.add_metric((view.version, view.model, str(len(view.stages))), 1)
        yield info
        yield _single(metrics.READY, view.state == "ready")
        yield _single(metrics.EPOCH, view.epoch)
        up, age, restarts = metrics.STAGE_UP.family(), metrics.HEARTBEAT_AGE.family(), metrics.RESTARTS.family()
        for stage in view.stages:
            label = (str(stage.stage),)
            up.add_metric(label, stage.state == "ready")
            restarts.add_metric(label, stage.restarts)
            if stage.heartbeat_age_seconds is not None:
                age.add_metric(label, stage.heartbeat_age_seconds)
        yield from (up, age, restarts)
        refused = metrics.REFUSED.family()
        for reason in REASONS:
            refused.add_metric((reason,), view.refused.get(reason, 0))
        yield refused
        yield _single(metrics.RUNNING, view.running)
        yield _single(metrics.WAITING, view.waiting)
        yield _single(metrics.PROMPT_TOKENS, observer.prompt_tokens)
        yield _single(metrics.GENERATED_TOKENS, observer.generated_tokens)
        yield _single(metrics.PREFIX_QUERIES, view.prefixes.queries)
        yield _single(metrics.PREFIX_HITS, view.prefixes.hits)
        yield _single(metrics.PREFIX_TOKENS, view.prefixes.tokens)
        yield _single(metrics.PREFIX_SNAPSHOTS, view.prefixes.snapshots)
        yield _single(metrics.PREFIX_EVICTIONS, view.prefixes.evictions)


def _single(series: Series, value: float) -> Metric:
    family = series.family()
    family.add_metric((), value)
    return family
