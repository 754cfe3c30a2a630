"""What happens to requests, for those who watch: every event goes into the journal and into the metrics."""

import asyncio
from typing import get_args

import msgspec
from prometheus_client import CollectorRegistry

from coordinator.request import Request
from coordinator.telemetry import metrics
from coordinator.telemetry.history import History
from coordinator.telemetry.journal import Entry, Journal
from coordinator.telemetry.trace import Anchor
from coordinator.view import ClusterView, Reason
from worker.protocol import StageTimes
from worker.telemetry.series import new_registry
from worker.version import VERSION


class Observer:
    """Told by the pipeline, which knows requests by number, and by the API, which knows how they end.

    `now` is always a time of the coordinator's monotonic clock; `anchor` is when it began.
    """

    def __init__(self, anchor: Anchor) -> None:
        self.anchor = anchor
        self.registry: CollectorRegistry = new_registry()
        self.journal = Journal()
        self.history = History(now=anchor.monotonic)
        self.prompt_tokens = 0
        self.generated_tokens = 0
        self._over = asyncio.Event()
        self._queue = metrics.QUEUE_SECONDS.histogram(self.registry)
        self._first_token = metrics.FIRST_TOKEN_SECONDS.histogram(self.registry)
        self._inter_token = metrics.INTER_TOKEN_SECONDS.histogram(self.registry)
        self._request = metrics.REQUEST_SECONDS.histogram(self.registry)
        self._prompt_length = metrics.PROMPT_LENGTH.histogram(self.registry)
        self._generated_length = metrics.GENERATED_LENGTH.histogram(self.registry)
        finished = metrics.FINISHED.counter(self.registry)
        self._finished = {reason: finished.labels(reason) for reason in get_args(Reason)}
        self._rejected = metrics.REJECTED.counter(self.registry)

    # --- requests ---

    def arrived(self, number: int, request: Request, now: float) -> None:
        """The pipeline has taken a request."""
        self.journal.arrived(number, request, now)

    def admitted(self, number: int, now: float, cached: int = 0) -> None:
        """Its first rows are ordered; `cached` tokens of its prompt are known already."""
        entry = self.journal.open(number)
        if entry is not None and entry.admitted is None:
            entry.admitted, entry.cached = now, cached
            self.prompt_tokens += entry.prompt_tokens
            self._queue.observe(now - entry.arrived)

    def token(self, number: int, now: float) -> None:
        """A token that came at `now` is handed out. Called for every token: it must cost microseconds."""
        entry = self.journal.open(number)
        if entry is None:
            return
        self.generated_tokens += 1
        entry.generated += 1
        if entry.last is None:
            entry.first = now
            self._first_token.observe(now - entry.arrived)
        else:
            self._inter_token.observe(now - entry.last)
        entry.last = now

    def closed(self, number: int, times: tuple[StageTimes, ...]) -> None:
        """Every stage has freed it."""
        self.journal.closed(number, times)

    def ended(self, id: str, reason: Reason, error: str | None, now: float) -> None:
        """Its answer is over; `error` is the code for the reason "error". Without a place yet, that is a refusal."""
        entry = self.journal.ended(id, reason, error, now)
        if error is not None and (entry is None or entry.admitted is None):
            self.refused(error)
        elif entry is not None:
            self._finished[reason].inc()
            self._request.observe(now - entry.arrived)
            self._prompt_length.observe(entry.prompt_tokens)
            self._generated_length.observe(entry.generated)
        self._over.set()

    async def end(self, entry: Entry) -> None:
        """Wait until the request's answer is over."""
        while entry.ended is None:
            self._over.clear()
            await self._over.wait()

    def refused(self, code: str) -> None:
        """An HTTP request was answered with this error instead of being taken."""
        self._rejected.labels(code).inc()

    # --- the cluster ---

    def complete(self, view: ClusterView, now: float) -> ClusterView:
        """The view with what is known here: requests, rate, age."""
        return msgspec.structs.replace(
            view,
            version=VERSION,
            uptime_seconds=round(now - self.anchor.monotonic, 3),
            tokens_per_second=self.history.tokens_per_second,
            prefill_tokens_per_second=self.history.prefill_tokens_per_second,
            requests=self.journal.in_flight(now),
        )

    def sample(self, view: ClusterView, now: float) -> None:
        """Time for the next sample of the history."""
        self.history.add(now, view, self.generated_tokens)
