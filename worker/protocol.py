"""Every message that crosses a socket of a worker; its bytes are made in `worker.links.wire`.

A message is one msgpack map with the field `kind`; a message that carries a tensor has one more frame with the
tensor's raw little-endian bytes. Two kinds of links:

- control: coordinator (ROUTER) <-> each worker (DEALER);
- data: stage i (DEALER) -> stage i + 1 (ROUTER), and last stage -> stage 0. Frames: sequence number, message[, tensor].
  Acknowledgements and receipts flow back on the same pair.

`Open`, `Chunk`, `Lease`, `Save`, `Drop` and `Close` enter at stage 0. `Open`, `Save`, `Drop` and `Close` then travel
along the data links, in order with the activations, so that every stage knows a request before its first activation and
forgets it after its last; the last stage reports `Closed` to the coordinator. In the same way every stage takes a
snapshot at the same position, and no `Open` that begins from one can overtake its `Save` or come after its `Drop`.

Every message about a request carries the epoch. An epoch is one unbroken life of all stages and links together; when a
stage is lost the coordinator starts the next one, and what is left of the old one is dropped and counted.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec

from worker.footprint import Footprint

PROTOCOL_VERSION = 3

BLOCK = 64  # rows of a prompt: cutting it at multiples changes no result, as its scan works in such blocks

DType = Literal["bfloat16", "float16", "float32"]
# position, hash of the tokens before it, and whether it has seen an answer (see the coordinator's `prefixes`); a file's
# name too
SNAPSHOT_NAME = r"\A[0-9]{1,9}-[0-9a-f]{32}(-answer)?\Z"
SnapshotName = Annotated[str, msgspec.Meta(pattern=SNAPSHOT_NAME)]
FinishReason = Literal["stop", "length"]


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag=str.lower):
    """Base of all messages; the tag is the class name in lower case."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the last stage chooses a token. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    seed: int = 0


# --- worker -> coordinator ---------------------------------------------------------------------------------------


class Hello(Message, frozen=True, kw_only=True):
    """First message of a worker's life. `host` is its name in the cluster, `metrics` is "host:port" of its metrics
    server."""

    protocol: int
    pid: int
    host: str
    backend: str
    metrics: str = ""


class Loading(Message, frozen=True, kw_only=True):
    """Progress of loading this stage's tensors."""

    loaded_bytes: int
    total_bytes: int


class Loaded(Message, frozen=True, kw_only=True):
    """The stage's layers are in memory, `parameter_bytes` of them; `fused_layers` decode through fused kernels.

    `bandwidth` is what this machine's memory gives, measured, in bytes a second; 0 if it was not measured. `state` is
    what a sequence needs. `memory` names the memory that holds all this, and `usable_bytes` is how much of it may be
    used, by all the stages in it together; 0 if that is unknown.
    """

    fused_layers: int
    parameter_bytes: int = 0
    bandwidth: float = 0.0
    state: Footprint = Footprint(0, 0)
    memory: str = ""
    usable_bytes: int = 0


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A snapshot on a stage, and its bytes there."""

    snapshot: SnapshotName
    nbytes: int


class Listening(Message, frozen=True, kw_only=True):
    """The stage's input socket is bound for this epoch; `endpoint` is where its upstream neighbour connects.

    `held` are the snapshots of earlier epochs, the oldest first.
    """

    epoch: int
    endpoint: str
    held: tuple[Held, ...] = ()


class Linked(Message, frozen=True, kw_only=True):
    """The stage is connected to its downstream neighbour and runs this epoch."""

    epoch: int


class Heartbeat(Message, frozen=True, kw_only=True):
    """Sent by the pulse's thread. `busy_seconds`: how long the compute thread has been in its current step, 0 if idle;
    `step_seconds`: mean compute time of its last decode steps, 0 if it has made none.

    `state_bytes` are those of open sequences, `snapshot_bytes` those of snapshots. `in_flight` counts steps, `credits`
    the messages that may still be sent downstream. The other seconds are totals of this process (the parts of a step:
    `worker.telemetry.timesheet`); `hop_seconds` is the mean of the last measured hops to the next
    stage, 0 if none was measured; `decode_p50` and `decode_p95` are of the last decode steps' compute time.
    `elapsed_seconds` is this process's monotonic clock, for what two heartbeats differ in. `piece_rows` were computed
    in `piece_seconds`: in prefill steps of at least BLOCK rows, which are large enough to tell the speed.
    `refused` connections had no key, an unknown one, or one for another server.
    """

    epoch: int
    steps: int
    busy_seconds: float
    step_seconds: float
    memory_bytes: int
    state_bytes: int
    sequences: int
    stale_messages: int
    duplicate_messages: int
    gaps: int = 0
    snapshot_bytes: int = 0
    in_flight: int = 0
    credits: int = 0
    peak_bytes: int = 0
    rows_prefilled: int = 0
    rows_decoded: int = 0
    decode_steps: int = 0
    compute_seconds: float = 0.0
    queue_seconds: float = 0.0
    encode_seconds: float = 0.0
    wait_seconds: float = 0.0
    hop_seconds: float = 0.0
    decode_p50: float = 0.0
    decode_p95: float = 0.0
    elapsed_seconds: float = 0.0
    piece_rows: int = 0
    piece_seconds: float = 0.0
    refused: int = 0


class Sampled(msgspec.Struct, frozen=True, array_like=True):
    """One sampled token. `position` is its index in the sequence, prompt included; `finish` is set on the last one."""

    request: int
    position: int
    token: int
    finish: FinishReason | None = None


class Tokens(Message, frozen=True, kw_only=True):
    """What one step sampled: from the last stage to stage 0 (data link) and to the coordinator (control)."""

    epoch: int
    batch: int | None
    tokens: tuple[Sampled, ...]


class StageTimes(msgspec.Struct, frozen=True, array_like=True):
    """Where one request's time went at one stage, in seconds by that stage's clock.

    `prefill_seconds` and `decode_seconds` are compute time; a step of a batch counts whole for each member. `wait`:
    from the end of its last step here to the arrival of its next rows. `hop`: on the way to the next stage, its steps
    times the mean of the last measured hops (0 if none was measured).
    """

    stage: int
    prefill_steps: int
    prefill_seconds: float
    decode_steps: int
    decode_seconds: float
    queue_seconds: float
    encode_seconds: float
    wait_seconds: float
    hop_seconds: float


class Closed(Message, frozen=True, kw_only=True):
    """Every stage has freed the request's state; `times` has one entry a stage, in order."""

    epoch: int
    request: int
    times: tuple[StageTimes, ...] = ()


class Saved(Message, frozen=True, kw_only=True):
    """Every stage holds the snapshot; `nbytes` has one entry a stage, in order."""

    epoch: int
    request: int
    snapshot: SnapshotName
    nbytes: tuple[int, ...]


class Fault(Message, frozen=True, kw_only=True):
    """This stage cannot go on with the requests of this epoch; it stays alive itself."""

    epoch: int
    code: str
    message: str


class Failed(Message, frozen=True, kw_only=True):
    """Last words of a worker that cannot serve. `user`: the message is about the user's input (exit status 2)."""

    message: str
    user: bool


# --- coordinator -> worker ---------------------------------------------------------------------------------------


class Assign(Message, frozen=True, kw_only=True):
    """What this worker serves: layers [first, end) of the checkpoint in directory or hub id `model`, which has this
    `model_hash` if it is a directory ("" if that does not matter).

    Snapshots are kept in the directory `snapshots` too, which belongs to this very model; none if that is empty. It may
    begin with "~".
    """

    stage: int
    stages: int
    model: str
    first: int
    end: int
    quantize: str | None
    snapshots: str = ""
    model_hash: str = ""


class Listen(Message, frozen=True, kw_only=True):
    """A new epoch begins: forget all requests, close the data links and bind the input socket anew.

    `remote`: the upstream neighbour is on another host, so at this host's IP address, for the neighbour with the public
    key `peer` alone ("" in a cluster without keys).
    """

    epoch: int
    remote: bool = False
    peer: str = ""


class Connect(Message, frozen=True, kw_only=True):
    """Connect the output socket to the next stage (none in a cluster of one stage), whose public key is `server`.

    It is "" for a neighbour on this host, and in a cluster without keys.
    """

    epoch: int
    endpoint: str | None
    server: str = ""


class Stop(Message, frozen=True, kw_only=True):
    """Leave in order."""


# --- requests: coordinator -> stage 0, `Open` and `Close` onwards from stage to stage -------------------------------


class Open(Message, frozen=True, kw_only=True):
    """A request begins. `limit` is the sequence length (prompt and answer) at which it ends with reason `length`.

    `prompt` holds the prompt's tokens only if the sampling needs them (repetition penalty), else it is empty. The first
    rows are those of position `first`: 0, or where the snapshot `restore` was taken.
    """

    epoch: int
    request: int
    sampling: Sampling
    stop_tokens: tuple[int, ...]
    limit: int
    prompt: tuple[int, ...] = ()
    first: int = 0
    restore: SnapshotName | None = None


class Chunk(Message, frozen=True, kw_only=True):
    """Prefill: the request's tokens at positions first, first + 1, ...; after the `final` one a token is sampled.

    Then every stage takes a snapshot under the name `save`, if there is one.
    """

    epoch: int
    request: int
    first: int
    tokens: tuple[int, ...]
    final: bool
    save: SnapshotName | None = None


class Lease(Message, frozen=True, kw_only=True):
    """Decode these requests together for at most `steps` more steps. Replaces the batch's lease at the next step."""

    epoch: int
    batch: int
    requests: tuple[int, ...]
    steps: int


class Save(Message, frozen=True, kw_only=True):
    """Take a snapshot of the request where it is: at position `first` + i under the name names[i].

    There are two names where stage 0 may have run ahead by one row. It leaves the right one, and every stage adds its
    `nbytes`.
    """

    epoch: int
    request: int
    first: int
    names: tuple[SnapshotName, ...]
    nbytes: tuple[int, ...] = ()


class Drop(Message, frozen=True, kw_only=True):
    """Free this snapshot."""

    epoch: int
    snapshot: SnapshotName


class Close(Message, frozen=True, kw_only=True):
    """The request is over or cancelled: free its state. Every stage adds its `times` as the message passes."""

    epoch: int
    request: int
    times: tuple[StageTimes, ...] = ()


# --- data links ----------------------------------------------------------------------------------------------------


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one request in a step: `count` positions from `first`; `sample`: choose a token after the last one."""

    request: int
    first: int
    count: int
    sample: bool


class Activations(Message, frozen=True, kw_only=True):
    """Hidden states between two stages, rows of all segments one after the other; the tensor is the next frame.

    `shape` is (rows, hidden size) and `rows` the sum of the segments' counts. With a piece of a prompt, `batches` are
    those that decoded when it started.
    """

    epoch: int
    batch: int | None
    segments: tuple[Segment, ...]
    dtype: DType
    shape: tuple[int, int]
    batches: tuple[int, ...] = ()


class Ack(Message, frozen=True, kw_only=True):
    """The receiver has applied every message of this link up to and with `sequence`."""

    sequence: int


class Receipt(Message, frozen=True, kw_only=True):
    """The message `sequence` found its receiver waiting, and this answer left `held_seconds` after it was read.

    Half of what else passed since the message was handed over is the time of a hop; no two clocks are compared.
    """

    sequence: int
    held_seconds: float


FromWorker = Hello | Loading | Loaded | Listening | Linked | Heartbeat | Tokens | Closed | Saved | Fault | Failed
ToWorker = Assign | Listen | Connect | Stop | Open | Chunk | Lease | Save | Drop | Close
OnLink = Open | Save | Drop | Close | Activations | Tokens
BackOnLink = Ack | Receipt


def requests_of(segments: Sequence[Segment]) -> tuple[int, ...]:
    """The requests of a step in row order."""
    return tuple(segment.request for segment in segments)
