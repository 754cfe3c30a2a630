"""What the coordinator knows of one stage: its layers, the life of its worker, and what that one has said."""

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from coordinator.seat import HERE, Seat
from coordinator.telemetry.shares import HEARTBEATS, shares
from coordinator.view import StageState, StageView
from worker.protocol import Heartbeat, Held, Hello, Loaded

Phase = Literal["down", "starting", "loading", "opening", "listening", "connecting", "linked"]

SHOWN: dict[Phase, StageState] = {
    "down": "down",
    "starting": "starting",
    "loading": "loading",
    "opening": "linking",
    "listening": "linking",
    "connecting": "linking",
    "linked": "ready",
}


@dataclass(slots=True)
class Life:
    """What belongs to one worker process; `beats` are its last heartbeats, `heard` is when the last one came."""

    session: str = ""
    pid: int | None = None
    metrics: str = ""
    loaded_bytes: int = 0
    total_bytes: int = 0
    parameter_bytes: int = 0
    bandwidth: float = 0.0
    loaded: Loaded | None = None
    memory_bytes: int = 0
    beats: deque[Heartbeat] = field(default_factory=lambda: deque[Heartbeat](maxlen=HEARTBEATS))
    heard: float = 0.0


@dataclass(slots=True)
class Stage:
    """One stage. `seen` is when its worker last said anything, `progressed` when it last got further, `asked` when it
    was last told to link."""

    layers: tuple[int, int]
    pattern: str
    seat: Seat = HERE
    phase: Phase = "down"
    life: Life = field(default_factory=Life)
    host: str = ""  # as its worker names it
    backend: str = ""
    endpoint: str = ""
    held: tuple[Held, ...] = ()
    restarts: int = -1
    fused_layers: int = 0
    detail: str = ""
    seen: float = 0.0
    progressed: float = 0.0
    asked: float = 0.0

    def starting(self, session: str, now: float) -> None:
        """A worker process is being started."""
        self.phase = "starting"
        self.life = Life(session=session)
        self.restarts += 1
        self.detail = ""
        self.seen = self.progressed = now

    def lost(self, reason: str) -> None:
        """Its worker process has ended."""
        self.phase = "down"
        self.life = Life()
        self.detail = reason

    def is_beside(self, other: "Stage") -> bool:
        """Whether both run on one host."""
        return self.seat.host == other.seat.host

    def hello(self, message: Hello, now: float) -> None:
        """The worker lives and is told what to load."""
        self.phase = "loading"
        self.progressed = now
        self.host, self.backend = message.host, message.backend
        self.life.pid, self.life.metrics = message.pid, message.metrics

    def loaded(self, message: Loaded) -> None:
        """Its layers are in memory."""
        self.life.loaded = message
        self.fused_layers = message.fused_layers
        self.life.loaded_bytes = self.life.total_bytes
        self.life.parameter_bytes, self.life.bandwidth = message.parameter_bytes, message.bandwidth

    def beat(self, message: Heartbeat, now: float) -> None:
        """The worker's pulse."""
        self.life.beats.append(message)
        self.life.heard = now
        self.life.memory_bytes = message.memory_bytes or self.life.memory_bytes

    @property
    def busy_seconds(self) -> float:
        """How long it has been in its current step."""
        return self.life.beats[-1].busy_seconds if self.life.beats else 0.0

    def view(self, index: int, now: float) -> StageView:
        """The stage as `/cluster` shows it."""
        life = self.life
        beat = life.beats[-1] if life.beats else _SILENT
        spent = shares(life.beats[0], beat) if life.beats else None
        return StageView(
            stage=index,
            layers=self.layers,
            pattern=self.pattern,
            host=self.seat.host or self.host,
            backend=self.backend,
            pid=life.pid,
            state=SHOWN[self.phase],
            memory_bytes=life.memory_bytes,
            loaded_bytes=life.loaded_bytes,
            total_bytes=life.total_bytes,
            fused_layers=self.fused_layers,
            state_bytes=beat.state_bytes,
            sequences=beat.sequences,
            steps=beat.steps,
            stale_messages=beat.stale_messages,
            duplicate_messages=beat.duplicate_messages,
            restarts=max(self.restarts, 0),
            step_seconds=beat.step_seconds,
            detail=self.detail,
            metrics=life.metrics,
            peak_bytes=beat.peak_bytes,
            parameter_bytes=life.parameter_bytes,
            bandwidth=life.bandwidth,
            in_flight=beat.in_flight,
            credits=beat.credits,
            gaps=beat.gaps,
            snapshot_bytes=beat.snapshot_bytes,
            heartbeat_age_seconds=round(now - life.heard, 3) if life.beats else None,
            rows_prefilled=beat.rows_prefilled,
            decode_steps=beat.decode_steps,
            refused=beat.refused,
            decode_p50=beat.decode_p50,
            decode_p95=beat.decode_p95,
            hop_seconds=beat.hop_seconds,
            busy=spent.busy if spent else None,
            wait=spent.wait if spent else None,
            transfer=spent.transfer if spent else None,
        )


_SILENT = Heartbeat(
    epoch=0,
    steps=0,
    busy_seconds=0.0,
    step_seconds=0.0,
    memory_bytes=0,
    state_bytes=0,
    sequences=0,
    stale_messages=0,
    duplicate_messages=0,
)
