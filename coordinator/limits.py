"""How a pipeline behaves."""

import msgspec

from coordinator.scheduling.batches import MOST_MEMBERS
from coordinator.scheduling.scheduler import Bounds
from coordinator.settings import Settings


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Times are in seconds.

    A worker is ended after `silence` without a sign of life, `loading` without progress of loading, or `stall` in one
    step. `backoff` and `backoff_limit` are those of `Restarts`. `prefill_chunk` and `decode_pause` are those of `Pace`,
    `state_bytes` and `snapshot_bytes` are those of `Coordination`.
    """

    bounds: Bounds
    prefill_chunk: int
    decode_pause: float
    state_bytes: int | None
    snapshot_bytes: int | None
    silence: float
    loading: float
    backoff: float
    backoff_limit: float
    stall: float = 300.0


def limits_of(settings: Settings, stages: int) -> Limits:
    """As a user has set them, for so many stages."""
    return Limits(
        bounds=Bounds(
            max_running=settings.max_running or MOST_MEMBERS * stages,
            max_waiting=settings.max_waiting,
            queue_timeout=settings.queue_timeout,
            request_timeout=settings.request_timeout,
        ),
        prefill_chunk=settings.prefill_chunk,
        decode_pause=settings.decode_pause,
        state_bytes=settings.state_bytes,
        snapshot_bytes=settings.snapshot_bytes,
        silence=settings.heartbeat_timeout,
        loading=settings.loading_timeout,
        backoff=settings.restart_delay,
        backoff_limit=settings.restart_delay_limit,
    )
