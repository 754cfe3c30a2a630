"""How a checkpoint packs a weight matrix, from the shapes and dtypes of its tensors; no MLX.

Tensors speak for themselves: `weight` [.., N, D * bits / 32] of uint32 and `scales` [.., N, D / group] give bits and
group, since D is known; only affine keeps scales as floats and has `biases`. What config.json's `quantization` says
about a module by name must agree.
"""

from collections.abc import Mapping
from typing import Any

from worker.checkpoint.quantization import FLOAT_MODES, Quantization
from worker.checkpoint.shards import FLOATS, Shards
from worker.checkpoint.tensors import Located
from worker.errors import CheckpointError


def read_packing(shards: Shards, located: Located, declared: Mapping[str, Any]) -> Quantization | None:
    """The format of the part, None if it is dense; `declared` is config.json's `quantization`.

    Raises CheckpointError, naming file and tensor, unless all shapes and dtypes are those of the part.
    """
    part = located.part
    if part.kind == "conv":
        _expect_conv(shards, located)
        return None
    if located.bias:
        shards.expect(located.bias, part.shape[-2:-1], FLOATS)
    packed = None
    if located.scales is not None:
        packed = _packed(shards, located, located.scales)
    else:
        # experts stored one by one have the shape and the dtype of the first
        first, *others = located.weights
        if shards.info(first).dtype == "U32":
            raise shards.wrong(first, f"packed, but tensor {part.path}.scales is missing")
        shape = part.shape[1:] if others else part.shape
        shards.expect(first, shape, FLOATS)
        for name in others:
            shards.expect(name, shape, (shards.info(first).dtype,))
    if part.kind != "array":
        _compare(shards, located, packed, declared)
    return packed


def _expect_conv(shards: Shards, located: Located) -> None:
    """[C, K, 1] as MLX convolves, or [C, 1, K] as torch does."""
    channels, width = located.part.shape
    is_torch = shards.info(located.weights[0]).shape[1:2] == (1,)
    shards.expect(located.weights[0], (channels, 1, width) if is_torch else (channels, width, 1), FLOATS)


def _packed(shards: Shards, located: Located, scales: str) -> Quantization:
    name = located.weights[0]
    *rows, columns = located.part.shape
    words, groups = shards.info(name).shape[-1:], shards.info(scales).shape[-1:]
    # a scalar has no last dimension and is refused as 0 bits
    bits = 32 * sum(words) // columns
    group_size = columns // max(sum(groups), 1)
    mode = "affine"
    if shards.info(scales).dtype == "U8":
        mode = next((mode for mode, format in FLOAT_MODES.items() if format == (bits, group_size)), "unknown")
    packing = Quantization(bits, group_size, mode)
    if not packing.supported:
        raise shards.wrong(name, f"with {sum(groups)} scales a row: no format that packs {columns} weights a row")
    shards.expect(name, (*rows, columns * bits // 32), ("U32",))
    shards.expect(scales, (*rows, columns // group_size), FLOATS if mode == "affine" else ("U8",))
    if (mode == "affine") != (located.biases is not None):
        problem = "is missing" if mode == "affine" else f"does not belong to mode {mode}"
        raise CheckpointError(f"{shards.path(name)}: tensor {located.part.path}.biases {problem}")
    if located.biases is not None:
        shards.expect(located.biases, shards.info(scales).shape, (shards.info(scales).dtype,))
    return packing


def _compare(shards: Shards, located: Located, packed: Quantization | None, declared: Mapping[str, Any]) -> None:
    """What config.json says about the module: true (the default format), false, or some of bits, group and mode."""
    entry = declared.get(located.part.path)
    if entry is None or (entry is False and packed is None):
        return
    said = declared if entry is True else entry
    if packed and isinstance(said, Mapping):
        keys = ("bits", "group_size", "mode")
        if all(said[key] == getattr(packed, key) for key in keys if key in said):
            return
    raise CheckpointError(
        f"{shards.directory / 'config.json'}: quantization of {located.part.path} is {entry!r},"
        f" its tensors in {shards.path(located.weights[0]).name} are {packed or 'dense'}"
    )
