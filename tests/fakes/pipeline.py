"""A pipeline that says what it was told to say."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence

import msgspec

from coordinator.request import Request, Token
from coordinator.telemetry.observer import Observer
from coordinator.telemetry.trace import Anchor
from coordinator.view import ClusterView, StageView
from worker.errors import NoRoomError, NotReadyError, QueueFullError

REFUSALS = (NotReadyError, NoRoomError, QueueFullError)


class Pause(msgspec.Struct, frozen=True):
    """Seconds in which no token comes."""

    seconds: float


class FakePipeline:
    """Plays the same script for every request: tokens, pauses, failures.

    `requests` are those that began, `cancelled` the ids of those that were closed before their last token, `called_off`
    the numbers of those that were cancelled by name. `observer` hears what it would hear from the real one; a script
    that begins with a refusal takes no request.
    """

    def __init__(
        self, script: Sequence[Token | Pause | Exception], *, down: int | None = None, metrics: str = "127.0.0.1:9100"
    ) -> None:
        self._script = tuple(script)
        self._down = down
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self.observer = Observer(Anchor(time.time(), time.monotonic()))
        self.requests: list[Request] = []
        self.cancelled: list[str] = []
        self.called_off: list[int] = []

    async def generate(self, request: Request) -> AsyncGenerator[Token, None]:
        self.requests.append(request)
        ended = False
        number = next(self._numbers)
        if not (self._script and isinstance(self._script[0], REFUSALS)):
            self.observer.arrived(number, request, time.monotonic())
            self.observer.admitted(number, time.monotonic())
        try:
            for step in self._script:
                if isinstance(step, Pause):
                    await asyncio.sleep(step.seconds)
                elif isinstance(step, Exception):
                    ended = True
                    raise step
                else:
                    ended = step.finish is not None
                    self.observer.token(number, time.monotonic())
                    yield step
        finally:
            if not ended:
                self.cancelled.append(request.id)

    async def cancel(self, number: int) -> None:
        self.called_off.append(number)

    async def freed(self, number: int) -> None:
        pass

    def problem(self) -> str | None:
        return None if self._down is None else f"stage {self._down} is loading"

    def view(self) -> ClusterView:
        stages = (
            stage(0, "MEM", loading=self._down == 0, metrics=self._metrics),
            stage(1, "E*", loading=self._down == 1, metrics="127.0.0.1:9"),
        )
        state = "ready" if self._down is None else "starting"
        view = ClusterView(
            state=state, model="tiny", epoch=1, running=0, waiting=0, stages=stages, reason=self.problem() or ""
        )
        return self.observer.complete(view, time.monotonic())


def stage(index: int, pattern: str, *, loading: bool, metrics: str) -> StageView:
    """Stage 0 has 3 layers, stage 1 the 2 after them."""
    return StageView(
        stage=index,
        layers=(0, 3) if index == 0 else (3, 5),
        pattern=pattern,
        host="localhost",
        backend="cpu",
        pid=1000 + index,
        state="loading" if loading else "ready",
        memory_bytes=0 if loading else 4096,
        loaded_bytes=1024 if loading else 4096,
        total_bytes=4096,
        fused_layers=0,
        state_bytes=0,
        sequences=0,
        steps=0,
        stale_messages=0,
        duplicate_messages=0,
        restarts=0,
        step_seconds=0.0,
        detail="1 of 4 KiB" if loading else "",
        metrics="" if loading else metrics,
    )


def spell(text: str, *, finish: str = "length") -> list[Token]:
    """One token per byte, as the byte-level tokenizers of the tests have them; the last one ends the answer."""
    ids = text.encode()
    return [Token(id) for id in ids[:-1]] + [Token(ids[-1], finish)]  # type: ignore[arg-type]
