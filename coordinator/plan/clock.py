"""A clock that jumps from event to event. Pure."""

import heapq
import itertools
from collections.abc import Callable

Event = Callable[[], None]


class Clock:
    """Seconds since the start; events of the same time happen in the order in which they were planned."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Event]] = []
        self._order = itertools.count()

    def at(self, when: float, event: Event) -> None:
        """Plan an event; the past is now."""
        heapq.heappush(self._events, (max(when, self.now), next(self._order), event))

    def run(self, after: Event) -> None:
        """All events, `after` each of them what follows from it at once."""
        while self._events:
            self.now, _, event = heapq.heappop(self._events)
            event()
            after()
