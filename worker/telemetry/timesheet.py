"""Where a stage's time goes, by one clock. Pure: every time is passed in, in monotonic seconds.

    wait     requests are open and there is nothing to do: from the end of the last step until what the next one needs
             is here (the bubble)
    queue    from then until the step starts
    compute  from its start, building the graph included, until its result is there; a step that overlaps the one
             before counts from the end of that
    encode   from the result until it is handed to ZeroMQ

So for steps one after the other wait + queue + compute + encode is the interval between them.

Between two steps only time stamps are kept. The books are made of them later, of several steps at once: after a step
of a model the code for it is in no cache any more, and takes ten times as long as it does right after itself.
"""

from collections import deque
from typing import Literal, NamedTuple

import msgspec

from worker.protocol import Segment, StageTimes, requests_of

Phase = Literal["prefill", "decode"]

LAST_STEPS = 4096
LAST_DECODES = 64


class Finished(msgspec.Struct, frozen=True):
    """A step from its start to the hand-over of its result; `wait` is that of the stage before it."""

    phase: Phase
    rows: int
    requests: tuple[int, ...]
    started: float
    computed: float
    ended: float
    queue: float
    wait: float

    @property
    def compute(self) -> float:
        """Seconds until the result was there."""
        return self.computed - self.started

    @property
    def encode(self) -> float:
        """Seconds from the result to its hand-over."""
        return self.ended - self.computed


class _Flying(msgspec.Struct, frozen=True):
    phase: Phase
    segments: tuple[Segment, ...]
    since: float
    started: float
    wait: float


class _Landed(NamedTuple):
    flying: _Flying
    before: float  # end of the step before it
    computed: float
    ended: float


class _Account(msgspec.Struct):
    """One request's time so far; `ended` is the end of its last step."""

    ended: float
    prefill_steps: int = 0
    prefill: float = 0.0
    decode_steps: int = 0
    decode: float = 0.0
    queue: float = 0.0
    encode: float = 0.0
    wait: float = 0.0


class Timesheet:
    """Steps of one worker in the order of their start. Written by the compute thread; others may read `steps`,
    `decodes`, `busy_since` and `in_flight`, each of which is consistent in itself."""

    def __init__(self, stage: int) -> None:
        self._stage = stage
        self.steps: deque[Finished] = deque(maxlen=LAST_STEPS)
        self.decodes: deque[Finished] = deque(maxlen=LAST_DECODES)
        self.busy_since = 0.0  # start of the oldest step in flight, 0 if there is none
        self._flying: deque[_Flying] = deque()
        self._landed: list[_Landed] = []
        self._accounts: dict[int, _Account] = {}
        self._ended = 0.0
        self._free: float | None = None  # since when the stage has waited, if a request is open

    @property
    def in_flight(self) -> int:
        """Steps that have started and not ended."""
        return len(self._flying)

    @property
    def unsettled(self) -> int:
        """Steps that have ended and are not in the books."""
        return len(self._landed)

    def begin(self) -> None:
        """A new epoch: no request is open, no step is under way."""
        self._flying.clear()
        self._accounts.clear()
        self._free, self.busy_since = None, 0.0

    def opened(self, request: int, now: float) -> None:
        """A request begins."""
        if not self._accounts and not self._flying:
            self._free = now
        self._accounts[request] = _Account(ended=now)

    def closed(self, request: int, hop: float) -> StageTimes:
        """A request is over and its steps are in the books: its times. `hop` is the mean of the last hops to the next
        stage, 0 if unknown."""
        account = self._accounts.pop(request, None) or _Account(ended=0.0)
        if not self._accounts:
            self._free = None
        return StageTimes(
            self._stage,
            account.prefill_steps,
            account.prefill,
            account.decode_steps,
            account.decode,
            account.queue,
            account.encode,
            account.wait,
            (account.prefill_steps + account.decode_steps) * hop,
        )

    def launched(self, phase: Phase, segments: tuple[Segment, ...], *, since: float, now: float) -> None:
        """A step starts now; what it needs has been here `since`."""
        wait = max(since - self._free, 0.0) if self._free is not None else 0.0
        self._flying.append(_Flying(phase, segments, since, now, wait))
        self._free = None
        self.busy_since = self.busy_since or now

    def landed(self, computed: float, ended: float) -> None:
        """The oldest step's result was there at `computed` and handed over at `ended`."""
        self._landed.append(_Landed(self._flying.popleft(), self._ended, computed, ended))
        self._ended = ended
        self._free = ended if self._accounts and not self._flying else None
        self.busy_since = max(self._flying[0].started, ended) if self._flying else 0.0

    def settle(self) -> list[Finished]:
        """Put the steps that have ended into the books; returns them."""
        steps = [self._finished(landed) for landed in self._landed]
        self._landed.clear()
        self.steps.extend(steps)
        self.decodes.extend(step for step in steps if step.phase == "decode")
        return steps

    def _finished(self, landed: _Landed) -> Finished:
        flying = landed.flying
        requests = requests_of(flying.segments)
        accounts = [account for request in requests if (account := self._accounts.get(request)) is not None]
        started = max(flying.started, landed.before)
        # all pieces of a prompt may be here at once, but each needs the one before it
        since = max(flying.since, *(account.ended for account in accounts), 0.0)
        step = Finished(
            phase=flying.phase,
            rows=sum(segment.count for segment in flying.segments),
            requests=requests,
            started=started,
            computed=landed.computed,
            ended=landed.ended,
            queue=max(started - since, 0.0),
            wait=flying.wait,
        )
        for account in accounts:
            _charge(account, step, since)
        return step


def _charge(account: _Account, step: Finished, since: float) -> None:
    if step.phase == "decode":
        account.decode_steps += 1
        account.decode += step.compute
    else:
        account.prefill_steps += 1
        account.prefill += step.compute
    account.queue += step.queue
    account.encode += step.encode
    account.wait += max(since - account.ended, 0.0)
    account.ended = step.ended
