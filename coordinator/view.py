"""The cluster as others see it: `/cluster`, `stageline status`, progress of loading."""

from typing import Literal

import msgspec

StageState = Literal["starting", "loading", "linking", "ready", "down"]


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, as `/cluster` shows it. `layers` is [first, end); `detail` says why it is not ready; `backend` is
    MLX's ("metal", "cuda" or "cpu"), empty until the worker has said hello; `fused_layers` of the layers decode
    through fused kernels.

    `step_seconds` is the mean compute time of its last decode steps, 0 if it has made none. `stale_messages` belonged
    to an old epoch, `duplicate_messages` repeated applied rows; both were dropped.
    """

    stage: int
    layers: tuple[int, int]
    pattern: str
    host: str
    backend: str
    pid: int | None
    state: StageState
    memory_bytes: int
    loaded_bytes: int
    total_bytes: int
    fused_layers: int
    state_bytes: int
    sequences: int
    steps: int
    stale_messages: int
    duplicate_messages: int
    restarts: int
    step_seconds: float
    detail: str = ""


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, as `/cluster` shows it."""

    state: Literal["starting", "ready", "degraded", "stopping"]
    model: str
    epoch: int
    running: int
    waiting: int
    stages: tuple[StageView, ...]
