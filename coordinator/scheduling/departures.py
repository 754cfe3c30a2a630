"""How fast requests leave, and so how long one has to wait for its turn. Pure: times in, seconds out."""

import math
from collections import deque

WINDOW = 32  # the last departures count
LEAST_SECONDS, MOST_SECONDS = 1, 60
UNKNOWN_SECONDS = 2  # before anything has left


class Departures:
    """When the last requests ended; monotonic seconds."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=WINDOW)

    def ended(self, now: float) -> None:
        """A request has left, its place is free."""
        self._times.append(now)

    def per_second(self, now: float) -> float | None:
        """The rate of the last departures, which falls while nothing leaves; None before there are two."""
        if len(self._times) < 2 or now <= self._times[0]:
            return None
        return (len(self._times) - 1) / (now - self._times[0])

    def seconds_until(self, count: int, now: float) -> int:
        """Whole seconds in which so many will leave at this rate, for Retry-After."""
        rate = self.per_second(now)
        if rate is None:
            return UNKNOWN_SECONDS
        return min(max(math.ceil(count / rate), LEAST_SECONDS), MOST_SECONDS)
