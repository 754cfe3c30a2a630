"""How a stage spent the last seconds, from two of its heartbeats: its own totals by its own clock. Pure."""

import msgspec

from worker.protocol import Heartbeat

HEARTBEATS = 5  # from the first to the last one pass two seconds


class Shares(msgspec.Struct, frozen=True):
    """Parts of the time, together at most 1; the rest passed without an open request.

    `busy`: steps were computed. `transfer`: results were encoded and handed over, or were on their way to the next
    stage and nothing else was to do. `wait`: the rest of the time in which nothing was to do although requests are
    open, the bubble.
    """

    busy: float
    wait: float
    transfer: float


def shares(before: Heartbeat, after: Heartbeat) -> Shares | None:
    """Shares of the time between two heartbeats of one process; None if none passed.

    A hop counts only as far as it lies in the bubble: what travels while the stage computes delays nobody.
    """
    elapsed = after.elapsed_seconds - before.elapsed_seconds
    if elapsed <= 0:
        return None
    busy = min(_computed(after) - _computed(before), elapsed)
    encode = after.encode_seconds - before.encode_seconds
    wait = after.wait_seconds - before.wait_seconds
    hops = after.hop_seconds * (after.decode_steps - before.decode_steps)
    hidden = min(hops, wait)
    parts = [max(part, 0.0) for part in (busy, wait - hidden, encode + hidden)]
    scale = max(elapsed, sum(parts))  # the totals of a step are written at its end, so parts may lie before `before`
    return Shares(*(part / scale for part in parts))


def _computed(heartbeat: Heartbeat) -> float:
    """Compute time so far, that of the step under way included."""
    return heartbeat.compute_seconds + heartbeat.busy_seconds
