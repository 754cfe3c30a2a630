"""What a product needs to know of a weight matrix."""

from typing import Protocol

import mlx.core as mx

BITS = (4, 5, 6, 8)
GROUPS = (32, 64, 128)


class Packing(Protocol):
    """How a matrix is packed; `worker.model.matrix.Quantization` is one."""

    @property
    def bits(self) -> int: ...  # noqa: D102
    @property
    def group_size(self) -> int: ...  # noqa: D102
    @property
    def mode(self) -> str: ...  # noqa: D102


class Weight(Protocol):
    """A matrix [N, D], or [E, N, D] by expert, as MLX packs it; `worker.model.matrix.Matrix` is one."""

    @property
    def weight(self) -> mx.array: ...  # noqa: D102
    @property
    def scales(self) -> mx.array | None: ...  # noqa: D102
    @property
    def biases(self) -> mx.array | None: ...  # noqa: D102
    @property
    def quantization(self) -> Packing | None: ...  # noqa: D102
    @property
    def bias(self) -> mx.array | None: ...  # noqa: D102


def bits_of(matrix: Weight) -> int:
    """Bits a weight; 16 for bf16."""
    return 16 if matrix.quantization is None else matrix.quantization.bits


def group_of(matrix: Weight) -> int:
    """Weights that share a scale; 1 for bf16."""
    return 1 if matrix.quantization is None else matrix.quantization.group_size


def depth_of(matrix: Weight) -> int:
    """D, the length of a row in weights."""
    packed = matrix.weight.shape[-1]
    return packed if matrix.quantization is None else packed * 32 // matrix.quantization.bits


def arrays_of(matrix: Weight) -> list[mx.array]:
    """Kernel arguments: weight, and scales and biases if quantised."""
    if matrix.quantization is None:
        return [matrix.weight]
    assert matrix.scales is not None
    assert matrix.biases is not None
    return [matrix.weight, matrix.scales, matrix.biases]


def nbytes(matrix: Weight) -> int:
    """Bytes of the matrix in memory, all experts."""
    return sum(array.nbytes for array in arrays_of(matrix))


def why_not(matrix: Weight) -> str | None:
    """Why no kernel takes this matrix, or None when one does."""
    if matrix.bias is not None:
        return "it has a bias"
    packing = matrix.quantization
    if packing is None:
        if matrix.weight.dtype != mx.bfloat16:
            return f"its type is {matrix.weight.dtype}, not bfloat16"
        return None if depth_of(matrix) % 8 == 0 else f"its rows of {depth_of(matrix)} are not a multiple of 8"
    if packing.mode != "affine" or packing.bits not in BITS or packing.group_size not in GROUPS:
        return f"its format is {packing.mode}, {packing.bits} bits, group {packing.group_size}"
    if matrix.scales is None or matrix.biases is None or matrix.scales.dtype != mx.bfloat16:
        return "its scales are not bfloat16"
    return None
