"""The header of a safetensors file: which tensors it holds, without reading them; no MLX.

A file is: header length (8 bytes, little-endian), header (JSON: name -> dtype, shape, [begin, end) in the data), data.
Format: https://github.com/huggingface/safetensors#format
"""

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from worker.checkpoint.fields import refuse_irregular
from worker.errors import CheckpointError

MAX_HEADER_BYTES = 100_000_000  # the format's own limit
ITEM_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}
INCOMPLETE = "the download or copy is incomplete or damaged, fetch the file again"


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor's `dtype` in the format's spelling (`BF16`, `U32`), its shape and its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of the safetensors file `path`.

    Raises CheckpointError, naming the file, if it cannot be read, is no such file, or is shorter or longer than its
    header says.
    """
    refuse_irregular(path)
    try:
        with path.open("rb") as file:
            file_bytes = file.seek(0, 2)
            file.seek(0)
            start = file.read(8)
            if start == b"version ":
                raise CheckpointError(f"{path}: a Git LFS pointer, not the file itself: run `git lfs pull`")
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            if not 2 <= length <= min(file_bytes - 8, MAX_HEADER_BYTES):
                raise CheckpointError(f"{path}: {file_bytes} bytes, no whole safetensors header; {INCOMPLETE}")
            header = json.loads(file.read(length))
            metadata = header.pop("__metadata__", None) or {}  # MLX writes null
            if not all(isinstance(text, str) for text in metadata.values()):
                raise ValueError("__metadata__ holds something that is no text")
            tensors = {name: _tensor(entry) for name, entry in header.items()}
            end = _end(header)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: the safetensors header is damaged ({error!r}); {INCOMPLETE}") from error
    if file_bytes != 8 + length + end:
        raise CheckpointError(f"{path}: {file_bytes} bytes, its header promises {8 + length + end}; {INCOMPLETE}")
    return tensors


def _end(header: dict[str, Any]) -> int:
    """Of the data, which tensors cover without gap or overlap; raises ValueError if they do not."""
    end = 0
    for begin, after, name in sorted((*entry["data_offsets"], name) for name, entry in header.items()):
        if begin != end:
            raise ValueError(f"tensor {name} begins at {begin}, the one before it ends at {end}")
        end = after
    return end


def _tensor(entry: dict[str, Any]) -> TensorInfo:
    dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"shape {shape}, offsets {begin} to {end}")
    # an unknown dtype is refused later, by tensor name
    if dtype in ITEM_BITS and prod(shape) * ITEM_BITS[dtype] != 8 * (end - begin):
        raise ValueError(f"{dtype} of shape {list(shape)} in {end - begin} bytes")
    return TensorInfo(dtype, shape, end - begin)
