from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from coordinator.request import Request
from coordinator.telemetry.journal import Journal
from coordinator.telemetry.trace import Anchor, StageTrace, Step, lanes, trace
from worker.protocol import Sampling

NAMES = {0: "stage 0 (layers 0-3)", 1: "stage 1 (layers 4-6)"}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=40))
def test_no_two_spans_of_a_lane_overlap(given: list[tuple[int, int]]) -> None:
    spans = sorted((start, start + length) for start, length in given)
    chosen = lanes(spans)
    for lane in set(chosen):
        mine = [span for span, its in zip(spans, chosen, strict=True) if its == lane]
        assert all(before[1] <= after[0] for before, after in pairwise(mine))
    most = max((sum(start <= moment < end for start, end in spans) for moment, _ in spans), default=0)
    assert len(set(chosen)) == most


def test_the_spans_of_a_run() -> None:
    journal = Journal()
    request = Request(id="cmpl-1", request_id="r", prompt=(1,), max_tokens=2, sampling=Sampling(), stop_tokens=())
    journal.arrived(7, request, 100.0)
    entry = journal.open(7)
    assert entry is not None
    entry.admitted, entry.first, entry.generated = 100.5, 101.0, 3
    journal.ended("cmpl-1", "stop", None, 103.0)
    # a worker whose monotonic clock has nothing to do with the coordinator's
    stage = StageTrace(1, 42, 5000.25, 3.0, (Step(3.5, 3.75, 3.875, "decode", 2, (7, 8)),))
    events = trace(Anchor(5000.0, 100.0), journal.all(), [stage], NAMES, 104.0)
    names = {event.pid: event.args["name"] for event in events if event.ph == "M"}
    assert names == {0: "requests", 2: "stage 1 (layers 4-6), pid 42"}
    spans = [event for event in events if event.ph == "X"]
    assert [(span.pid, span.name, span.ts, span.dur) for span in spans] == [
        (0, "cmpl-1", 0.0, 3e6),
        (0, "queue", 0.0, 0.5e6),
        (0, "prefill", 0.5e6, 0.5e6),
        (0, "decode", 1e6, 2e6),
        (2, "decode", 0.75e6, 0.375e6),
        (2, "compute", 0.75e6, 0.25e6),
        (2, "encode", 1e6, 0.125e6),
    ]
    assert spans[4].args == {"rows": 2, "requests": ["cmpl-1", "8"]}


def test_a_request_in_flight_lasts_until_now() -> None:
    journal = Journal()
    request = Request(id="a", prompt=(1,), max_tokens=2, sampling=Sampling(), stop_tokens=())
    journal.arrived(1, request, 100.0)
    spans = trace(Anchor(0.0, 100.0), journal.all(), [], NAMES, 102.0)
    assert [(span.name, span.dur) for span in spans[1:]] == [("a", 2e6), ("queue", 2e6)]
