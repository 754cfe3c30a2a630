"""What is known of the requests in flight, and of the last ones that ended. Pure: values and times in, values out."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

from coordinator.request import Request
from coordinator.view import OpenRequest, Reason, RequestState
from worker.protocol import StageTimes

KEPT = 512
SHOWN = 100


@dataclass(slots=True)
class Entry:
    """One request. Times are of one monotonic clock, in seconds, None until it happened; `times` are by stage."""

    number: int
    id: str
    request_id: str
    prompt_tokens: int
    arrived: float
    admitted: float | None = None
    first: float | None = None
    last: float | None = None
    ended: float | None = None
    cached: int = 0
    generated: int = 0
    finish: Reason | None = None
    error: str | None = None
    times: tuple[StageTimes, ...] = ()

    @property
    def state(self) -> RequestState:
        """Where it is: without a place, before its first token, after it, or over."""
        if self.ended is not None:
            return "ended"
        if self.admitted is None:
            return "waiting"
        return "prefill" if self.first is None else "decode"

    @property
    def tokens_per_second(self) -> float:
        """The rate of all tokens but the first, which comes out of the prefill; 0 for fewer than two."""
        if self.first is None or self.last is None or self.last <= self.first:
            return 0.0
        return (self.generated - 1) / (self.last - self.first)

    def since_arrival(self, time: float | None) -> float | None:
        """Seconds from its arrival to `time`."""
        return None if time is None else time - self.arrived


class Journal:
    """Requests by the number they have on the wire; the last `kept` that ended are remembered.

    Events and ends go by what is unique: that number, or the id of the response. A name that a client gave can be any
    text, the id of another's response too, so it is only looked at when somebody asks, and after those ids.
    """

    def __init__(self, *, kept: int = KEPT) -> None:
        self._kept = kept
        self._open: dict[int, Entry] = {}
        self._ended: dict[int, Entry] = {}
        self._numbers: dict[str, int] = {}

    def arrived(self, number: int, request: Request, now: float) -> None:
        """The pipeline has taken a request."""
        self._open[number] = Entry(number, request.id, request.request_id, len(request.prompt), now)
        self._numbers[request.id] = number

    def open(self, number: int) -> Entry | None:
        """The request `number` if it has not ended."""
        return self._open.get(number)

    def closed(self, number: int, times: tuple[StageTimes, ...]) -> None:
        """All stages have freed it and say how long they had it; before or after its end."""
        entry = self._open.get(number) or self._ended.get(number)
        if entry is not None:
            entry.times = times

    def ended(self, id: str, finish: Reason, error: str | None, now: float) -> Entry | None:
        """The request's answer is over; None if the pipeline never took it."""
        entry = self._open.pop(self._numbers.get(id, -1), None)
        if entry is None:
            return None
        entry.ended, entry.finish, entry.error = now, finish, error
        self._ended[entry.number] = entry
        if len(self._ended) > self._kept:
            oldest = self._ended.pop(next(iter(self._ended)))
            del self._numbers[oldest.id]
        return entry

    def own(self, id: str) -> Entry | None:
        """The request whose response has this id, if it is still known."""
        number = self._numbers.get(id, -1)
        return self._open.get(number) or self._ended.get(number)

    def find(self, name: str) -> Entry | None:
        """The request whose response has this id, or else the newest to which its client gave it; if still known."""
        given = (entry for entry in self.all() if name and entry.request_id == name)
        return self.own(name) or max(given, key=lambda entry: entry.number, default=None)

    def all(self) -> Iterator[Entry]:
        """Everything that is known, those in flight last."""
        yield from self._ended.values()
        yield from self._open.values()

    def in_flight(self, now: float) -> tuple[OpenRequest, ...]:
        """The oldest requests that have not ended."""
        return tuple(
            OpenRequest(
                id=entry.id,
                state=entry.state,
                prompt_tokens=entry.prompt_tokens,
                generated_tokens=entry.generated,
                age_seconds=round(now - entry.arrived, 3),
            )
            for entry in islice(self._open.values(), SHOWN)
        )
