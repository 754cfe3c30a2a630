"""What metrics cost a decode step: `python scripts/metrics_cost.py [MODEL]` runs one stage with all layers of MODEL (a
directory; the demo model if there is none) and no sockets, in blocks of steps with and without metrics by turns.

With: all that a worker does for them, steps that are measured by kind of layer and scrapes included. Without:
the same loop, which still reads the clock but keeps nothing. Prints the median difference of the pairs, in time and
in processor time, which a machine's other tenants disturb less.
"""

import gc
import statistics
import sys
import threading
import time

from worker.mlx_settings import set_defaults

set_defaults()

from prometheus_client import generate_latest  # noqa: E402 MLX's settings come first

from coordinator.demo import demo_model  # noqa: E402
from worker.checkpoint.hub import describe  # noqa: E402
from worker.model.loading import load_stage_of  # noqa: E402
from worker.protocol import Assign, Chunk, Lease, Open, Sampling, Segment, Tokens  # noqa: E402
from worker.run import Run  # noqa: E402
from worker.telemetry.collector import WorkerCollector  # noqa: E402
from worker.telemetry.histograms import Histograms  # noqa: E402
from worker.telemetry.series import new_registry  # noqa: E402
from worker.telemetry.vitals import Vitals  # noqa: E402

PAIRS, STEPS = 200, 16
SCRAPE_SECONDS = 2.5  # half of that time is without metrics: as every 5 seconds


class NoLinks:
    """A stage alone sends nothing."""

    epoch, has_room = 1, True

    def send(self, message, payload=None):
        """Nobody is there."""
        raise AssertionError

    def acknowledge(self, received):
        """Nothing has come."""


class NoTimesheet:
    """Keeps nothing."""

    def opened(self, *_):
        """A request begins."""

    def launched(self, *_, **__):
        """A step starts."""


class Silent(Vitals):
    """Keeps nothing but what memory holds."""

    def __init__(self):
        super().__init__(0, Histograms(new_registry(), 0))
        self.timesheet = NoTimesheet()

    def step_finished(self, *_):
        """A step has ended."""

    def settle(self):
        """There is nothing to count."""

    def is_measure_due(self, now):
        """No step is measured by kind of layer."""
        return False


class Loop:
    """A worker's step loop on one endless sequence."""

    def __init__(self, engine, vitals):
        self._run = Run(engine=engine, links=NoLinks(), report=self._report, vitals=vitals, is_first=True, is_last=True)
        self.vitals = vitals
        self._tokens = 0
        self._order(Open(epoch=1, request=1, sampling=Sampling(temperature=0), stop_tokens=(), limit=1 << 20))
        self._order(Chunk(epoch=1, request=1, first=0, tokens=tuple(range(16)), final=True))
        self._work()

    def block(self, vitals):
        """Seconds and processor seconds of a step, mean of a block of which `vitals` are kept."""
        self._run._vitals = vitals
        self._order(Lease(epoch=1, batch=0, requests=(1,), steps=STEPS))
        return self._work()

    def _work(self):
        before, began, worked = self._tokens, time.perf_counter(), time.process_time()
        while not self._run.is_idle:
            self._run.work()
        self._run._vitals.settle()
        steps = self._tokens - before
        return (time.perf_counter() - began) / steps, (time.process_time() - worked) / steps

    def _order(self, message):
        self._run.order(message, time.monotonic())

    def _report(self, message):
        self._tokens += isinstance(message, Tokens)


def main():
    """Load, warm up, measure, print."""
    checkpoint = describe(sys.argv[1] if len(sys.argv) > 1 else str(demo_model()))
    count = len(checkpoint.spec.layers)
    assign = Assign(stage=0, stages=1, model=str(checkpoint.directory), first=0, end=count, quantize=None)
    new_engine, facts = load_stage_of(assign, lambda loaded, total: None)
    registry = new_registry()
    vitals, silent = Vitals(0, Histograms(registry, 0)), Silent()
    vitals.facts = facts
    vitals.begin(1, int)
    registry.register(WorkerCollector(0, vitals))
    loop = Loop(new_engine(), vitals)
    gc.collect()
    gc.freeze()  # as a worker does
    watching = threading.Event()
    threading.Thread(target=scrape, args=(registry, watching), daemon=True).start()

    def block(with_metrics):
        (watching.set if with_metrics else watching.clear)()
        return loop.block(vitals if with_metrics else silent)

    for with_metrics in (True, False):
        block(with_metrics)
    pairs = []
    for pair in range(PAIRS):
        order = (True, False) if pair % 2 else (False, True)
        pairs.append({with_metrics: block(with_metrics) for with_metrics in order})
    print(f"{len(pairs)} pairs of {STEPS} steps, {vitals.layer_times.steps} of them measured by kind of layer")
    for name, which in (("time", 0), ("processor time", 1)):
        plain = statistics.median(pair[False][which] for pair in pairs)
        difference, error = median_of([pair[True][which] - pair[False][which] for pair in pairs])
        print(
            f"{name}: {plain * 1e3:.3f} ms a step without metrics, {difference * 1e6:+.1f} us with them "
            f"(standard error {error * 1e6:.1f}): {difference / plain:+.2%}"
        )
    print(f"the books alone: {books() * 1e6:.1f} us a step")


def median_of(values):
    """The median and its standard error, if the middle half of the values is that of a normal distribution."""
    low, middle, high = statistics.quantiles(values, n=4)
    return middle, 1.253 * (high - low) / 1.349 / len(values) ** 0.5


def scrape(registry, watching):
    """As Prometheus would, while metrics are kept."""
    while True:
        watching.wait()
        generate_latest(registry)
        time.sleep(SCRAPE_SECONDS)


def books(steps=5_000, rounds=10):
    """Processor seconds that the bookkeeping of a step takes by itself, the best of some rounds."""
    vitals, segments = Vitals(0, Histograms(new_registry(), 0)), (Segment(1, 0, 1, True),)
    vitals.timesheet.opened(1, time.monotonic())
    seconds = []
    for _ in range(rounds):
        began = time.process_time()
        for _ in range(steps):
            now = time.monotonic()
            vitals.timesheet.launched("decode", segments, since=now, now=now)
            vitals.step_finished(time.monotonic(), time.monotonic(), None)
        seconds.append((time.process_time() - began) / steps)
    return min(seconds)


if __name__ == "__main__":
    main()
