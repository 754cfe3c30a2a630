"""The last minutes of the cluster, sampled, for charts that need no Prometheus. Pure: values and times in.

Columns of the cluster: `seconds` (when a sample was taken), tokens_per_second, prefill_tokens_per_second, running,
waiting. Columns of a stage: the shares busy, wait and transfer, the seconds p50, p95 and hop, memory_bytes, up. A stage
that is not ready, or was lost since the last sample, has None in its numbers; so have p50, p95 and hop in a sample in
which it made no decode step.
"""

from collections import deque

import msgspec

from coordinator.view import ClusterView, StageView

SAMPLE_SECONDS = 2.0
KEPT = 450  # a quarter of an hour

Number = float | None
Columns = dict[str, list[Number]]

CLUSTER = ("seconds", "tokens_per_second", "prefill_tokens_per_second", "running", "waiting")
STAGE = ("busy", "wait", "transfer", "p50", "p95", "hop", "memory_bytes", "up")


class _Sample(msgspec.Struct, frozen=True):
    cluster: tuple[float, ...]  # in the order of CLUSTER
    stages: tuple[tuple[Number, ...], ...]  # each in the order of STAGE


class History:
    """A ring of the last `kept` samples; `now` is when it begins."""

    def __init__(self, *, now: float, kept: int = KEPT) -> None:
        self._samples: deque[_Sample] = deque(maxlen=kept)
        self._stages = 0
        self._generated = self._prefilled = 0
        self._last = now
        self._decode_steps: dict[int, int] = {}
        self._restarts: dict[int, int] = {}
        self.tokens_per_second = self.prefill_tokens_per_second = 0.0  # in the last sample

    def add(self, now: float, view: ClusterView, generated: int) -> None:
        """A sample of `view`, at `now`; `generated` tokens have been delivered so far, in all."""
        prefilled = view.stages[0].rows_prefilled
        if now > self._last:
            new = prefilled - self._prefilled if prefilled >= self._prefilled else prefilled  # of another worker
            self.prefill_tokens_per_second = round(new / (now - self._last), 2)
            self.tokens_per_second = round((generated - self._generated) / (now - self._last), 2)
        self._generated, self._prefilled, self._last = generated, prefilled, now
        self._stages = len(view.stages)
        rates = self.tokens_per_second, self.prefill_tokens_per_second
        cluster = (round(now, 3), *rates, view.running, view.waiting)
        self._samples.append(_Sample(cluster, tuple(self._stage(stage) for stage in view.stages)))

    def since(self, seconds: float | None, now: float) -> dict[str, object]:
        """The columns of what was sampled after `seconds`; of everything for None, and for a time after `now`, which is
        that of another coordinator."""
        samples = list(self._samples)
        if seconds is not None and seconds <= now:
            samples = [sample for sample in samples if sample.cluster[0] > seconds]
        stages = [_columns(STAGE, [sample.stages[stage] for sample in samples]) for stage in range(self._stages)]
        return {**_columns(CLUSTER, [sample.cluster for sample in samples]), "stages": stages}

    def _stage(self, stage: StageView) -> tuple[Number, ...]:
        made_steps = self._decode_steps.get(stage.stage, 0) != stage.decode_steps
        self._decode_steps[stage.stage] = stage.decode_steps
        was_lost = self._restarts.get(stage.stage, stage.restarts) != stage.restarts
        self._restarts[stage.stage] = stage.restarts
        if stage.state != "ready" or was_lost:
            return (None,) * (len(STAGE) - 1) + (False,)
        shares = (_round(share, 4) for share in (stage.busy, stage.wait, stage.transfer))
        seconds = stage.decode_p50, stage.decode_p95, stage.hop_seconds or None
        times = (_round(time, 7) if made_steps else None for time in seconds)
        return (*shares, *times, stage.memory_bytes, True)


def _columns(names: tuple[str, ...], rows: list[tuple[Number, ...]]) -> Columns:
    return {name: [row[index] for row in rows] for index, name in enumerate(names)}


def _round(value: Number, digits: int) -> Number:
    """Fewer digits, as the page asks often."""
    return None if value is None else round(value, digits)
