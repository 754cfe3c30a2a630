"""A weight matrix as a checkpoint stores it: dense, or quantised in one of MLX's formats.

Shapes: D in, N out, E experts, T rows, K experts a row.
"""

from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from worker.checkpoint.quantization import Quantization


@dataclass(frozen=True, slots=True)
class Matrix:
    """`weight` is [N, D] or, stacked by expert, [E, N, D]; packed along D with `scales` [.., D / group] if quantised.

    MLX's CPU backend has two gaps in types narrower than float32: quantised products are summed in the narrow type
    (measured: errors of 17 % of a typical output over 1024 products in bfloat16, and 9 times slower), dense gathered
    ones do not exist. There the product is computed in float32 and rounded once, as the GPU backends do.
    """

    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    quantization: Quantization | None = None
    bias: mx.array | None = None

    def __call__(self, x_TD: mx.array) -> mx.array:
        """x W^T (+ bias): [.., D] to [.., N] in the dtype of x; float32 sums."""
        if self.scales is None:
            weight_DN = self.weight.T
            return x_TD @ weight_DN if self.bias is None else mx.addmm(self.bias, x_TD, weight_DN)
        y_TN = mx.quantized_matmul(_exact(x_TD), self.weight, self.scales, self.biases, **self._packing)
        y_TN = y_TN.astype(x_TD.dtype)
        return y_TN if self.bias is None else y_TN + self.bias

    def gather(self, x: mx.array, indices: mx.array, *, ascending: bool = False) -> mx.array:
        """Each row times the matrix of its expert: x [.., 1, D], `indices` [..] (they broadcast) to [.., 1, N].

        `ascending` indices let MLX take a faster way. Stacked matrices have no `bias`.
        """
        if self.scales is not None:
            how = {"rhs_indices": indices, "sorted_indices": ascending, **self._packing}
            return mx.gather_qmm(_exact(x), self.weight, self.scales, self.biases, **how).astype(x.dtype)
        weight_END = self.weight
        if weight_END.dtype != mx.float32 and mx.default_device().type == mx.cpu:
            # convert the experts in use, or all of them once where rows outnumber them
            if indices.size < weight_END.shape[0]:
                weight_END = weight_END[indices.flatten()]
                indices = mx.arange(indices.size, dtype=mx.uint32).reshape(indices.shape)
            weight_END = weight_END.astype(mx.float32)
        weight_EDN = weight_END.swapaxes(-1, -2)
        return mx.gather_mm(_exact(x), weight_EDN, rhs_indices=indices, sorted_indices=ascending).astype(x.dtype)

    def rows(self, ids_T: mx.array) -> mx.array:
        """Rows `ids_T` of [N, D], dequantised: [T, D] (an embedding lookup)."""
        if self.scales is None:
            return self.weight[ids_T]
        biases = None if self.biases is None else self.biases[ids_T]
        how = self.quantization
        assert how is not None
        return mx.dequantize(
            self.weight[ids_T], self.scales[ids_T], biases, group_size=how.group_size, bits=how.bits, mode=how.mode
        )

    @property
    def arrays(self) -> list[mx.array]:
        """Every array of the matrix."""
        return [a for a in (self.weight, self.scales, self.biases, self.bias) if a is not None]

    @property
    def _packing(self) -> dict[str, Any]:
        how = self.quantization
        assert how is not None
        return {"transpose": True, "group_size": how.group_size, "bits": how.bits, "mode": how.mode}

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(a.nbytes for a in self.arrays)


def _exact(x: mx.array) -> mx.array:
    """The operand to multiply with: itself on a GPU, in float32 on the CPU (see `Matrix`)."""
    return x.astype(mx.float32) if mx.default_device().type == mx.cpu else x
