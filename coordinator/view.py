"""The cluster and its requests as others see them: `/cluster`, `/requests/{id}`, `stageline status`, the dashboard."""

from typing import Literal

import msgspec

StageState = Literal["starting", "loading", "linking", "ready", "down"]
RequestState = Literal["waiting", "prefill", "decode", "ended"]
Reason = Literal["stop", "length", "cancelled", "error"]


class StageView(msgspec.Struct, frozen=True, kw_only=True):
    """One stage, as `/cluster` shows it. `layers` is [first, end); `detail` says why it is not ready; `backend` is
    MLX's ("metal", "cuda" or "cpu"), empty until the worker has said hello; `fused_layers` of the layers decode
    through fused kernels; `metrics` is "host:port" of its metrics server, empty while it has none.

    `step_seconds` is the mean compute time of its last decode steps, 0 if it has made none, `decode_p50` and
    `decode_p95` their median and the value that 5 % of them exceed, `hop_seconds` the mean time of its last hops to
    the next stage. `busy`, `wait` and `transfer` are shares of the last seconds (see `telemetry/shares.py`), None until
    two heartbeats have come. `stale_messages` belonged to an old epoch, `duplicate_messages` repeated applied rows:
    both were dropped; `gaps` is how often rows were missing. `refused` connections to its data link were of strangers.
    `bandwidth` of the memory is in bytes a second.
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
    metrics: str = ""
    peak_bytes: int = 0
    parameter_bytes: int = 0
    bandwidth: float = 0.0
    in_flight: int = 0
    credits: int = 0
    gaps: int = 0
    snapshot_bytes: int = 0
    heartbeat_age_seconds: float | None = None
    decode_p50: float = 0.0
    decode_p95: float = 0.0
    hop_seconds: float = 0.0
    busy: float | None = None
    wait: float | None = None
    transfer: float | None = None
    rows_prefilled: int = 0
    decode_steps: int = 0
    refused: int = 0


class OpenRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request in flight, as `/cluster` lists it; `id` is that of its response."""

    id: str
    state: RequestState
    prompt_tokens: int
    generated_tokens: int
    age_seconds: float


class PrefixView(msgspec.Struct, frozen=True, kw_only=True):
    """Since the coordinator started: prompts that were looked up, those that began from a snapshot, tokens that were
    not computed again, and snapshots that had to make room. `snapshots` are there now."""

    queries: int = 0
    hits: int = 0
    tokens: int = 0
    evictions: int = 0
    snapshots: int = 0


class ClusterView(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, as `/cluster` shows it. `reason` says why no request can run now, empty if one can.

    The rates are those of the last two seconds; `requests` are at most the hundred oldest in flight. `refused` are
    connections to the coordinator that were turned away, by reason (`worker.links.gate.REASONS`).
    """

    state: Literal["starting", "ready", "degraded", "stopping"]
    model: str
    epoch: int
    running: int
    waiting: int
    stages: tuple[StageView, ...]
    reason: str = ""
    version: str = ""
    uptime_seconds: float = 0.0
    tokens_per_second: float = 0.0
    prefill_tokens_per_second: float = 0.0
    requests: tuple[OpenRequest, ...] = ()
    prefixes: PrefixView = PrefixView()
    refused: dict[str, int] = {}


class StageShare(msgspec.Struct, frozen=True, kw_only=True):
    """One request's time at one stage, as `worker.protocol.StageTimes` has it; `layers` is [first, end)."""

    stage: int
    layers: tuple[int, int]
    prefill_steps: int
    prefill_seconds: float
    decode_steps: int
    decode_seconds: float
    queue_seconds: float
    encode_seconds: float
    wait_seconds: float
    hop_seconds: float


class RequestView(msgspec.Struct, frozen=True, kw_only=True):
    """Where one request's time went, as `/requests/{id}` shows it. Seconds are since its arrival, None if not yet.
    `cached_tokens` of the prompt were known from a snapshot.

    `stages` is empty until every stage has freed the request, and stays so if one was lost meanwhile.
    """

    id: str
    request_id: str
    state: RequestState
    finish_reason: Reason | None
    error: str | None
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    queue_seconds: float | None
    first_token_seconds: float | None
    total_seconds: float
    stages: tuple[StageShare, ...]
