"""Every message that crosses a socket, its schema and its bytes.

A message is one msgpack map with the field `kind`; a message that carries a tensor has one more frame with the
tensor's raw little-endian bytes. Two kinds of links:

- control: coordinator (ROUTER) <-> each worker (DEALER);
- data: stage i (DEALER) -> stage i + 1 (ROUTER), and last stage -> stage 0. Frames: sequence number, message[, tensor].
  Acknowledgements flow back on the same pair.

`Open`, `Chunk`, `Lease` and `Close` enter at stage 0. `Open` and `Close` then travel along the data links, in order
with the activations of their request, so that every stage knows a request before its first activation and forgets it
after its last; the last stage reports `Closed` to the coordinator.

Every message about a request carries the epoch. An epoch is one unbroken life of all stages and links together; when a
stage is lost the coordinator starts the next one, and what is left of the old one is dropped and counted.
"""

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, Literal

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import msgspec

from worker.errors import ProtocolError

PROTOCOL_VERSION = 1

MAX_MESSAGE_BYTES = 64 << 20
MAX_TENSOR_BYTES = 1 << 30
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# msgpack carries no types
_packb: Callable[[Any], bytes] = msgpack.packb  # pyright: ignore
_unpackb: Callable[..., Any] = msgpack.unpackb  # pyright: ignore

DType = Literal["bfloat16", "float16", "float32"]
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
    """First message of a worker's life."""

    protocol: int
    pid: int
    host: str
    backend: str


class Loading(Message, frozen=True, kw_only=True):
    """Progress of loading this stage's tensors."""

    loaded_bytes: int
    total_bytes: int


class Loaded(Message, frozen=True, kw_only=True):
    """The stage's layers are in memory; so many of them decode through fused kernels."""

    fused_layers: int


class Listening(Message, frozen=True, kw_only=True):
    """The stage's input socket is bound for this epoch; `endpoint` is where its upstream neighbour connects."""

    epoch: int
    endpoint: str


class Linked(Message, frozen=True, kw_only=True):
    """The stage is connected to its downstream neighbour and runs this epoch."""

    epoch: int


class Heartbeat(Message, frozen=True, kw_only=True):
    """Sent by the pulse's thread. `busy_seconds`: how long the compute thread has been in its current step, 0 if idle;
    `step_seconds`: mean compute time of its last decode steps, 0 if it has made none."""

    epoch: int
    steps: int
    busy_seconds: float
    step_seconds: float
    memory_bytes: int
    state_bytes: int
    sequences: int
    stale_messages: int
    duplicate_messages: int


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


class Closed(Message, frozen=True, kw_only=True):
    """Every stage has freed the request's state."""

    epoch: int
    request: int


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
    """What this worker serves: layers [first, end) of the checkpoint in directory or hub id `model`."""

    stage: int
    stages: int
    model: str
    first: int
    end: int
    quantize: str | None


class Listen(Message, frozen=True, kw_only=True):
    """A new epoch begins: forget all requests, close the data links and bind the input socket anew."""

    epoch: int


class Connect(Message, frozen=True, kw_only=True):
    """Connect the output socket to the next stage (none in a cluster of one stage)."""

    epoch: int
    endpoint: str | None


class Stop(Message, frozen=True, kw_only=True):
    """Leave in order."""


# --- requests: coordinator -> stage 0, `Open` and `Close` onwards from stage to stage -------------------------------


class Open(Message, frozen=True, kw_only=True):
    """A request begins. `limit` is the sequence length (prompt and answer) at which it ends with reason `length`.

    `prompt` holds the prompt's tokens only if the sampling needs them (repetition penalty), else it is empty.
    """

    epoch: int
    request: int
    sampling: Sampling
    stop_tokens: tuple[int, ...]
    limit: int
    prompt: tuple[int, ...] = ()


class Chunk(Message, frozen=True, kw_only=True):
    """Prefill: the request's tokens at positions first, first + 1, ...; after the `final` one a token is sampled."""

    epoch: int
    request: int
    first: int
    tokens: tuple[int, ...]
    final: bool


class Lease(Message, frozen=True, kw_only=True):
    """Decode these requests together for at most `steps` more steps. Replaces the batch's lease at the next step."""

    epoch: int
    batch: int
    requests: tuple[int, ...]
    steps: int


class Close(Message, frozen=True, kw_only=True):
    """The request is over or cancelled: free its state."""

    epoch: int
    request: int


# --- data links ----------------------------------------------------------------------------------------------------


class Segment(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one request in a step: `count` positions from `first`; `sample`: choose a token after the last one."""

    request: int
    first: int
    count: int
    sample: bool


class Activations(Message, frozen=True, kw_only=True):
    """Hidden states between two stages, rows of all segments one after the other; the tensor is the next frame.

    `shape` is (rows, hidden size) and `rows` the sum of the segments' counts.
    """

    epoch: int
    batch: int | None
    segments: tuple[Segment, ...]
    dtype: DType
    shape: tuple[int, int]


class Ack(Message, frozen=True, kw_only=True):
    """The receiver has applied every message of this link up to and with `sequence`."""

    sequence: int


FromWorker = Hello | Loading | Loaded | Listening | Linked | Heartbeat | Tokens | Closed | Fault | Failed
ToWorker = Assign | Listen | Connect | Stop | Open | Chunk | Lease | Close
OnLink = Open | Close | Activations | Tokens


def encode(message: Message) -> bytes:
    """The bytes of a message's first frame."""
    return _packb(msgspec.to_builtins(message))


def decode(frame: bytes | memoryview, kind: Any) -> Any:
    """The message in `frame`, one of the union `kind`.

    Raises ProtocolError for anything else: too long, not msgpack, an unknown kind, a missing, surplus or wrong field.
    """
    if len(frame) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"message of {len(frame)} bytes, the limit is {MAX_MESSAGE_BYTES}")
    try:
        plain = _unpackb(frame, strict_map_key=True, max_bin_len=0, max_ext_len=0, max_map_len=64)
        return msgspec.convert(plain, kind)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"undecodable message of {len(frame)} bytes: {error}") from error


def check_activations(message: Activations, payload_bytes: int, hidden_size: int) -> None:
    """Raises ProtocolError unless header and payload agree; call it before anything is allocated."""
    rows = sum(segment.count for segment in message.segments)
    if message.shape != (rows, hidden_size) or not message.segments or min(s.count for s in message.segments) < 1:
        raise ProtocolError(f"activations of shape {message.shape} for {rows} rows of width {hidden_size}")
    expected = prod(message.shape) * ITEM_BYTES[message.dtype]
    if expected != payload_bytes or expected > MAX_TENSOR_BYTES:
        raise ProtocolError(
            f"activations of {payload_bytes} bytes, shape {message.shape} {message.dtype} is {expected}"
        )


def requests_of(segments: Sequence[Segment]) -> tuple[int, ...]:
    """The requests of a step in row order."""
    return tuple(segment.request for segment in segments)
