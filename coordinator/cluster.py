"""The state of the cluster and what to tell the workers next. No sockets, no clock, no processes.

A stage goes starting -> loading -> opening (told to listen) -> listening -> connecting -> linked; the cluster is ready
when all stages are linked in the same epoch. When one is lost, the next epoch begins: the others are told to listen
anew, which makes them forget all requests, and everybody is connected once the lost one has loaded again.
"""

from collections.abc import Sequence

from coordinator.seat import HERE, Seat
from coordinator.stage import SHOWN, Phase, Stage
from coordinator.view import ClusterView
from worker.errors import ClusterError
from worker.protocol import (
    PROTOCOL_VERSION,
    Assign,
    Connect,
    Fault,
    Heartbeat,
    Held,
    Hello,
    Linked,
    Listen,
    Listening,
    Loaded,
    Loading,
    Message,
)

Orders = list[tuple[int, Message]]
# how long a stage may take for an order; one that is in the middle of a step will find the last order of several
ANSWER_SECONDS: dict[Phase, float] = {"opening": 5.0, "connecting": 15.0}
MOST_DOUBLINGS = 5


class Cluster:
    """All stages. Methods that change it return the messages to send: (stage, message).

    `snapshots` is the directory where the stages keep theirs, empty if they keep them in memory only. `seats` say where
    each stage runs; none means this machine.
    """

    def __init__(
        self,
        *,
        model: str,
        source: str,
        layers: Sequence[tuple[int, int]],
        pattern: str,
        quantize: str | None,
        snapshots: str = "",
        model_hash: str = "",
        seats: Sequence[Seat] = (),
    ) -> None:
        self.epoch = 1
        self.stopping = False
        self.was_ready = False
        self._relinks = 0  # in a row
        self._model = model
        self._source = source
        self._quantize = quantize
        self._snapshots = snapshots
        self._model_hash = model_hash
        seats = seats or [HERE] * len(layers)
        self._stages = [Stage(run, pattern[run[0] : run[1]], seat) for run, seat in zip(layers, seats, strict=True)]

    # --- events ---

    def starting(self, stage: int, session: str, now: float) -> None:
        """A worker process is being started; messages of its earlier lives no longer count."""
        self._stages[stage].starting(session, now)

    def started(self, stage: int, session: str, pid: int) -> None:
        """It is there."""
        if self.session(stage) == session:
            self._stages[stage].life.pid = pid

    def received(self, stage: int, message: Message, now: float) -> Orders:
        """The stage's worker reported. Raises ClusterError if it speaks another protocol version."""
        record = self._stages[stage]
        record.seen = now
        match message:
            case Hello(protocol=version):
                if version != PROTOCOL_VERSION:
                    raise ClusterError(
                        f"stage {stage} on {message.host} speaks protocol {version}, this coordinator "
                        f"{PROTOCOL_VERSION}: install the same stageline version on both"
                    )
                record.hello(message, now)
                return [(stage, self._assignment(stage))]
            case Loading():
                record.progressed = now
                record.life.loaded_bytes, record.life.total_bytes = message.loaded_bytes, message.total_bytes
            case Loaded() if record.phase == "loading":  # it may be said twice
                record.loaded(message)
                return [self._open(stage, now)]
            case Listening(epoch=self.epoch):
                record.phase = "listening"
                record.endpoint, record.held = message.endpoint, message.held
                return self._connect(now)
            case Linked(epoch=self.epoch):
                record.phase = "linked"
                record.detail = ""
                if self.is_ready:
                    self.was_ready, self._relinks = True, 0
            case Heartbeat():
                record.beat(message, now)
            case Fault(epoch=self.epoch):
                record.detail = message.message
            case _:
                pass
        return []

    def lost(self, stage: int, reason: str, now: float) -> Orders:
        """A worker process ended: the next epoch begins for the others."""
        self._stages[stage].lost(reason)
        return self.restart_epoch(now)

    def hindered(self, stage: int, reason: str) -> None:
        """Its machine cannot take it. That says more than why its last worker ended."""
        if self._stages[stage].phase == "down":
            self._stages[stage].detail = reason

    def restart_epoch(self, now: float) -> Orders:
        """Begin the next epoch: every stage forgets its requests and links anew."""
        if self.stopping:
            return []
        self.epoch += 1
        linking = ("opening", "listening", "connecting", "linked")
        return [self._open(index, now) for index, record in enumerate(self._stages) if record.phase in linking]

    def relink(self, now: float) -> Orders:
        """Begin the next epoch if a stage has not answered in time: an order may be lost with a connection."""
        patience = 2 ** min(self._relinks, MOST_DOUBLINGS)  # one that is slow must be able to catch up
        if not any(now - record.asked > ANSWER_SECONDS.get(record.phase, now) * patience for record in self._stages):
            return []
        self._relinks += 1
        return self.restart_epoch(now)

    def stop(self) -> None:
        """No stage will be started again."""
        self.stopping = True

    def _open(self, stage: int, now: float) -> tuple[int, Message]:
        record, before = self._stages[stage], self._stages[stage - 1]
        if record.phase != "opening":
            record.progressed = now
        record.phase = "opening"
        record.asked = now
        if record.is_beside(before):
            return stage, Listen(epoch=self.epoch)
        return stage, Listen(epoch=self.epoch, remote=True, peer=before.seat.key)

    def _connect(self, now: float) -> Orders:
        """Once all stages listen, each is told where the next one does."""
        if any(record.phase != "listening" for record in self._stages):
            return []
        orders: Orders = []
        count = len(self._stages)
        for index, record in enumerate(self._stages):
            record.phase = "connecting"
            record.progressed = record.asked = now
            after = self._stages[(index + 1) % count]
            server = "" if record.is_beside(after) else after.seat.key
            endpoint = after.endpoint if count > 1 else None
            orders.append((index, Connect(epoch=self.epoch, endpoint=endpoint, server=server)))
        return orders

    def _assignment(self, stage: int) -> Assign:
        first, end = self._stages[stage].layers
        return Assign(
            stage=stage,
            stages=len(self._stages),
            model=self._source,
            first=first,
            end=end,
            quantize=self._quantize,
            snapshots=self._snapshots,
            model_hash=self._model_hash,
        )

    # --- questions ---

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self._stages)

    @property
    def held(self) -> tuple[tuple[Held, ...], ...]:
        """The snapshots that the stages held when this epoch began."""
        return tuple(stage.held for stage in self._stages)

    @property
    def is_ready(self) -> bool:
        """Whether a request can run now."""
        return not self.stopping and all(record.phase == "linked" for record in self._stages)

    @property
    def loaded(self) -> tuple[Loaded, ...]:
        """What the stages have said of what they loaded; only those that have."""
        return tuple(stage.life.loaded for stage in self._stages if stage.life.loaded is not None)

    def hears(self, stage: int) -> bool:
        """Whether the stage's worker reads its messages now: it neither starts nor loads."""
        return self._stages[stage].phase not in ("down", "starting", "loading")

    def session(self, stage: int) -> str:
        """The name of the stage's current life, empty if it is down or there is no such stage."""
        return self._stages[stage].life.session if 0 <= stage < len(self._stages) else ""

    def describe(self, stage: int) -> str:
        """The stage as messages name it."""
        first, end = self._stages[stage].layers
        host = self._stages[stage].seat.host or self._stages[stage].host
        return f"stage {stage} (layers {first}-{end - 1}{', ' + host if host else ''})"

    def problem(self) -> str | None:
        """Why no request can run now, naming the stages; None if one can."""
        if self.stopping:
            return "the cluster is stopping"
        waiting = [
            f"{self.describe(index)} is {SHOWN[record.phase]}{': ' + record.detail if record.detail else ''}"
            for index, record in enumerate(self._stages)
            if record.phase != "linked"
        ]
        return "; ".join(waiting) or None

    def overdue(self, now: float, *, silence: float, loading: float, stall: float) -> list[tuple[int, str]]:
        """Stages whose process should be ended, and why: silent, loading without progress, in one step or without an
        answer for longer than these seconds."""
        late: list[tuple[int, str]] = []
        for index, record in enumerate(self._stages):
            waited = now - record.progressed
            fetching = record.phase == "loading" and record.life.total_bytes == 0  # the hub client has its own timeouts
            if record.phase in ("starting", "loading") and not fetching and waited > loading:
                late.append((index, f"no progress of loading for {waited:.0f} s"))
            elif record.phase not in ("down", "starting") and now - record.seen > silence:
                late.append((index, f"no sign of life for {now - record.seen:.0f} s"))
            elif record.phase in ("opening", "connecting") and waited > stall:
                late.append((index, f"no answer while linking for {waited:.0f} s"))
            elif record.phase == "linked" and record.busy_seconds > stall:
                late.append((index, f"in one step for {record.busy_seconds:.0f} s"))
        return late

    def view(self, now: float, *, running: int, waiting: int) -> ClusterView:
        """The cluster as `/cluster` shows it."""
        if self.stopping:
            state = "stopping"
        elif self.is_ready:
            state = "ready"
        else:
            state = "degraded" if self.was_ready else "starting"
        return ClusterView(
            state=state,
            model=self._model,
            epoch=self.epoch,
            running=running,
            waiting=waiting,
            stages=tuple(stage.view(index, now) for index, stage in enumerate(self._stages)),
            reason=self.problem() or "",
        )
