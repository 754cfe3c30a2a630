"""What a worker's message or end means for the cluster and for the requests. Pure: the pipeline carries it out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator.cluster import Cluster, Orders
from coordinator.request import Request, Token
from coordinator.scheduling.budget import Room, rooms, snapshot_limits
from coordinator.scheduling.scheduler import Scheduler
from coordinator.size import size
from worker.errors import ConfigError, StageFailedError, StagelineError
from worker.protocol import Closed, Drop, Fault, Heartbeat, Message, Saved, Tokens


@dataclass(slots=True)
class Effects:
    """Messages to send as (stage, message), tokens and errors to deliver as (request number, ...)."""

    orders: Orders = field(default_factory=Orders)
    tokens: list[tuple[int, Token]] = field(default_factory=list[tuple[int, Token]])
    errors: list[tuple[int, StagelineError]] = field(default_factory=list[tuple[int, StagelineError]])


class Coordination:
    """Cluster and scheduler together: the scheduler runs exactly while the cluster is ready.

    `state_bytes` is the limit for the state of sequences on every stage, `snapshot_bytes` that for snapshots; None
    depends on what the machines have left.
    """

    def __init__(
        self,
        cluster: Cluster,
        scheduler: Scheduler,
        *,
        state_bytes: int | None = None,
        snapshot_bytes: int | None = None,
    ) -> None:
        self.cluster = cluster
        self.scheduler = scheduler
        self._state_bytes = state_bytes
        self._snapshot_bytes = snapshot_bytes

    def submit(self, number: int, request: Request, now: float) -> Effects:
        """A new request, known to the stages by `number`. Raises NoRoomError or QueueFullError: it is not taken."""
        return self._to_first(self.scheduler.submit(number, request, now))

    def cancel(self, number: int) -> Effects:
        """Nobody wants the request any more; nothing happens if it has ended."""
        return self._to_first(self.scheduler.cancel(number))

    def expire(self, now: float) -> Effects:
        """Ends what has waited or run for longer than it may."""
        failures, orders = self.scheduler.expire(now)
        return Effects([(0, order) for order in orders], errors=failures)

    def received(self, stage: int, session: str, message: Message, now: float) -> Effects:
        """A worker reported; what an earlier life of it says is dropped. Raises ClusterError for another protocol, and
        ConfigError if all stages are linked and one has no room for any sequence."""
        cluster, scheduler = self.cluster, self.scheduler
        if session != cluster.session(stage):
            return Effects()
        was_ready = cluster.is_ready
        effects = Effects(cluster.received(stage, message, now))
        if cluster.is_ready and not was_ready:
            return self._begin()
        match message:
            case Tokens(epoch=epoch) if epoch == scheduler.epoch:
                if scheduler.misses(message):
                    return self._fault(f"{cluster.describe(stage)} sent a token whose predecessor is missing", now)
                effects.tokens, orders = scheduler.sampled(message)
                effects.orders += [(0, order) for order in orders]
            case Closed(epoch=epoch, request=number) if epoch == scheduler.epoch:
                effects.orders += [(0, order) for order in scheduler.closed(number, now)]
            case Saved(epoch=epoch) if epoch == scheduler.epoch:
                effects.orders += [(0, order) for order in scheduler.saved(message)]
            case Heartbeat():
                scheduler.pace.heard(stage, message.piece_rows, message.piece_seconds)
            case Fault(epoch=epoch) if epoch == cluster.epoch:
                return self._fault(f"{cluster.describe(stage)}: {message.message}", now)
            case _:
                pass
        return effects

    def _begin(self) -> Effects:
        """All stages are linked: some may still hold snapshots of earlier epochs."""
        cluster, scheduler, stages = self.cluster, self.scheduler, self.cluster.loaded
        limits = snapshot_limits(stages, self._snapshot_bytes)
        found = rooms(stages, self._state_bytes, limits)
        _check(found)
        dropped = scheduler.prefixes.begin(limits, [stage.state for stage in stages], cluster.held)
        failures, orders = scheduler.begin(cluster.epoch, found)
        drops = [Drop(epoch=cluster.epoch, snapshot=name) for name in dropped]
        return Effects([(0, order) for order in (*drops, *orders)], errors=failures)

    def lost(self, stage: int, reason: str, now: float) -> Effects:
        """A worker process has ended: what ran ends with an error, what waits goes on waiting."""
        where = self.cluster.describe(stage)
        orders = self.cluster.lost(stage, reason, now)
        self.scheduler.pace.forget(stage)
        error = StageFailedError(f"{where} is down ({reason}); it is being started again, send the request again")
        return Effects(orders, errors=[(number, error) for number in self.scheduler.halt()])

    def _fault(self, reason: str, now: float) -> Effects:
        """The epoch cannot go on."""
        orders = self.cluster.restart_epoch(now)
        error = StageFailedError(f"{reason}; the request's state is lost, send it again")
        return Effects(orders, errors=[(number, error) for number in self.scheduler.halt()])

    def _to_first(self, messages: list[Message]) -> Effects:
        return Effects([(0, message) for message in messages])


def _check(found: Sequence[Room]) -> None:
    """Whether the shortest sequence, of one position, fits everywhere: a cluster that refuses all is no use."""
    for room in found:
        need = room.footprint.bytes(1)
        if need > room.limit:
            raise ConfigError(
                f"{room.name} needs {size(need)} of state for the shortest sequence, but has room for "
                f"{size(room.limit)} ({room.origin}): give state_bytes at least {need} or leave it out; where it is "
                "left out, lower snapshot_bytes, quantize, or use more machines"
            )
