"""The bytes of messages, and what is refused before anything is allocated for it."""

from collections.abc import Callable
from math import prod
from typing import Any

import msgpack  # pyright: ignore[reportMissingTypeStubs]
import msgspec

from worker.errors import ProtocolError
from worker.protocol import Activations, Message

MAX_MESSAGE_BYTES = 64 << 20
MAX_TENSOR_BYTES = 1 << 30
ITEM_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}

# msgpack carries no types
_packb: Callable[[Any], bytes] = msgpack.packb  # pyright: ignore
_unpackb: Callable[..., Any] = msgpack.unpackb  # pyright: ignore


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
