"""A run in the trace format of Chrome, which Perfetto opens: what the stages computed when, and for whom. Pure.

Every process has its own clock. A span's ends are of one clock; where the spans of different processes stand to each
other comes from the wall clock, which each reads once, and is as good as that. Times are in microseconds since the
coordinator began.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from coordinator.telemetry.journal import Entry

COORDINATOR = 0  # as a process of the trace; stage i is i + 1
_NOTHING: Mapping[str, object] = {}


class Event(msgspec.Struct, frozen=True):
    """One event in the format's own words: `ph` is "X" for a span and "M" for a name; `ts` and `dur` are
    microseconds."""

    ph: Literal["X", "M"]
    name: str
    pid: int
    tid: int
    ts: float
    dur: float
    args: Mapping[str, object]


class Step(msgspec.Struct, frozen=True, array_like=True):
    """One step of a stage: seconds of its clock, rows, and the requests they belong to."""

    start: float
    computed: float
    end: float
    phase: str
    rows: int
    requests: tuple[int, ...]


class StageTrace(msgspec.Struct, frozen=True):
    """The last steps of a stage, as its worker's `/trace` gives them. The anchors are the same moment on two clocks."""

    stage: int
    pid: int
    anchor_unix: float
    anchor_monotonic: float
    steps: tuple[Step, ...]


class Anchor(msgspec.Struct, frozen=True):
    """One moment on the coordinator's two clocks."""

    unix: float
    monotonic: float


def trace(
    anchor: Anchor, entries: Iterable[Entry], stages: Sequence[StageTrace], names: Mapping[int, str], now: float
) -> list[Event]:
    """All events. `names` are those of the stages, `now` is where requests end that have not."""
    entries = list(entries)
    ids = {entry.number: entry.id for entry in entries}
    events = [_process(COORDINATOR, "requests")]
    events += _requests(anchor, entries, now)
    for stage in stages:
        events.append(_process(stage.stage + 1, f"{names[stage.stage]}, pid {stage.pid}"))
        events += _steps(anchor, stage, ids)
    return events


def lanes(spans: Sequence[tuple[float, float]]) -> list[int]:
    """A lane for each (start, end), in order of their starts, so that no two of one lane overlap; as few as can be."""
    ends: list[float] = []
    chosen: list[int] = []
    for start, end in spans:
        lane = next((index for index, last in enumerate(ends) if last <= start), len(ends))
        if lane == len(ends):
            ends.append(end)
        ends[lane] = end
        chosen.append(lane)
    return chosen


def _requests(anchor: Anchor, entries: list[Entry], now: float) -> Iterable[Event]:
    def at(time: float) -> float:
        return (time - anchor.monotonic) * 1e6

    entries = sorted(entries, key=lambda entry: entry.arrived)
    for entry, lane in zip(entries, lanes([(entry.arrived, entry.ended or now) for entry in entries]), strict=True):
        end = entry.ended or now
        about = {
            "request_id": entry.request_id,
            "state": entry.state,
            "finish_reason": entry.finish,
            "prompt_tokens": entry.prompt_tokens,
            "generated_tokens": entry.generated,
        }
        yield _span(COORDINATOR, lane, entry.id, at(entry.arrived), at(end), about)
        edges = [entry.arrived, entry.admitted or end, entry.first or end, end]
        for name, start, stop in zip(("queue", "prefill", "decode"), edges, edges[1:], strict=False):
            if stop > start:
                yield _span(COORDINATOR, lane, name, at(start), at(stop), _NOTHING)


def _steps(anchor: Anchor, stage: StageTrace, ids: Mapping[int, str]) -> Iterable[Event]:
    offset = stage.anchor_unix - anchor.unix - stage.anchor_monotonic

    def at(time: float) -> float:
        return (time + offset) * 1e6

    process = stage.stage + 1
    steps = sorted(stage.steps, key=lambda step: step.start)
    for step, lane in zip(steps, lanes([(step.start, step.end) for step in steps]), strict=True):
        about = {"rows": step.rows, "requests": [ids.get(number, str(number)) for number in step.requests]}
        yield _span(process, lane, step.phase, at(step.start), at(step.end), about)
        yield _span(process, lane, "compute", at(step.start), at(step.computed), _NOTHING)
        yield _span(process, lane, "encode", at(step.computed), at(step.end), _NOTHING)


def _process(process: int, name: str) -> Event:
    return Event("M", "process_name", process, 0, 0.0, 0.0, {"name": name})


def _span(process: int, lane: int, name: str, start: float, end: float, about: Mapping[str, object]) -> Event:
    start, end = round(start, 1), round(end, 1)  # the ends and not the length, so that spans stay within each other
    return Event("X", name, process, lane, start, round(end - start, 1), about)
