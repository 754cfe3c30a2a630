"""One stage's step loop, with an engine that passes on what it gets: what it counts, and that it sends first."""

import time

import pytest

from worker.links.links import Received
from worker.model.engine import Pending
from worker.protocol import Activations, Close, Fault, Open, Sampling, Segment
from worker.run import Run
from worker.telemetry.histograms import Histograms
from worker.telemetry.memory import Memory
from worker.telemetry.series import new_registry
from worker.telemetry.vitals import Vitals


class Relay:
    """Stands for `worker.model.engine.Engine`."""

    hidden_size = 2
    computes_in_background = False

    def open(self, message):
        pass

    def close(self, request):
        pass

    def memory(self):
        return Memory()

    def start_hidden(self, message, payload, measured):
        return Pending(message.batch, message.segments, (message, payload))

    def finish(self, pending, epoch):
        return pending.output


class Outlet:
    """Stands for `worker.links.links.Links`; keeps what is sent and how many steps were booked by then."""

    epoch = 1
    has_room = True

    def __init__(self, vitals):
        self.vitals, self.sent, self.booked = vitals, [], []

    def send(self, message, payload=None):
        self.sent.append(message)
        self.booked.append(self.vitals.totals.steps)
        return time.monotonic()

    def acknowledge(self, received):
        pass


class Middle:
    """Stage 1 of 3."""

    def __init__(self):
        self.vitals = Vitals(1, Histograms(new_registry(), 1))
        self.links = Outlet(self.vitals)
        self.reports = []
        self.run = Run(
            engine=Relay(),
            links=self.links,
            report=self.reports.append,
            vitals=self.vitals,
            is_first=False,
            is_last=False,
        )
        self.receive(Open(epoch=1, request=1, sampling=Sampling(), stop_tokens=(), limit=99))

    def receive(self, message, payload=b""):
        self.run.receive(Received(0, message, memoryview(payload), time.monotonic()))
        while not self.run.is_idle:
            self.run.work()
        self.vitals.settle()

    def rows(self, first, count, epoch=1):
        segments = (Segment(1, first, count, True),)
        header = Activations(epoch=epoch, batch=0, segments=segments, dtype="float32", shape=(count, 2))
        self.receive(header, bytes(8 * count))

    @property
    def counts(self):
        return self.vitals.totals.steps, self.vitals.duplicates, self.vitals.gaps, self.vitals.stale


@pytest.fixture
def middle():
    return Middle()


@pytest.mark.parametrize(
    ("first", "epoch", "counts"),
    [(3, 1, (2, 0, 0, 0)), (0, 1, (1, 1, 0, 0)), (4, 1, (1, 0, 1, 0)), (3, 2, (1, 0, 0, 1))],
    ids=["next", "duplicate", "gap", "stale"],
)
def test_rows_are_applied_or_counted(middle, first, epoch, counts):
    middle.rows(0, 3)
    middle.rows(first, 1, epoch)
    assert middle.counts == counts
    assert any(isinstance(report, Fault) for report in middle.reports) == (counts[2] == 1)


def test_results_are_sent_before_anything_is_booked(middle):
    for position in range(3):
        middle.rows(position, 1)
    assert [type(message) for message in middle.links.sent] == [Open, *[Activations] * 3]
    assert middle.links.booked == [0, 0, 1, 2]
    assert (middle.vitals.totals.rows_decoded, middle.vitals.heartbeat().decode_steps) == (3, 3)


def test_a_request_that_ends_takes_its_times_along(middle):
    for position in range(3):
        middle.rows(position, 1)
    middle.receive(Close(epoch=1, request=1))
    (times,) = middle.links.sent[-1].times
    steps = middle.vitals.timesheet.steps
    assert (times.stage, times.decode_steps) == (1, 3)
    assert times.decode_seconds == pytest.approx(sum(step.compute for step in steps))
    assert times.queue_seconds == pytest.approx(sum(step.queue for step in steps))
