"""When a lost worker is started again, and when that is given up. Pure."""

STEADY_SECONDS = 30.0
MOST_FAILURES = 5


class Restarts:
    """Counts each stage's failures. `backoff` and `limit`: seconds.

    The first restart is immediate; the delay then doubles from `backoff` up to `limit` with each failure that follows
    less than half a minute of service. A stage that fails five times without the cluster getting ready is given up.
    """

    def __init__(self, stages: int, *, backoff: float, limit: float) -> None:
        self._backoff = backoff
        self._limit = limit
        self._failures = [0] * stages
        self._in_vain = [0] * stages
        self._ready_since: float | None = None

    def ready(self, now: float) -> None:
        """All stages serve."""
        self._ready_since = now
        self._in_vain = [0] * len(self._in_vain)

    def lost(self, stage: int, now: float) -> float | None:
        """Seconds to wait before the stage is started again, None: never."""
        if self._ready_since is not None and now - self._ready_since > STEADY_SECONDS:
            self._failures = [0] * len(self._failures)
        self._ready_since = None
        self._failures[stage] += 1
        self._in_vain[stage] += 1
        if self._in_vain[stage] >= MOST_FAILURES:
            return None
        doublings = self._failures[stage] - 2
        return 0.0 if doublings < 0 else min(self._backoff * 2**doublings, self._limit)
