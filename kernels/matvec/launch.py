"""Products of packed matrices with 1 to 8 vectors, with what comes before and after them, one launch each.

Shapes: S vectors (1 to 8), D length of a row, N rows. Vectors and results are bf16, sums fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from kernels.dialect.jobs import Job, launch
from kernels.matvec.product import Norm, Product, Term, job
from kernels.matvec.weight import Weight, arrays_of, bits_of, depth_of, group_of


@dataclass(frozen=True, slots=True)
class Gain:
    """RMS norm before a product: weight [D] bf16."""

    weight: mx.array
    eps: float

    @property
    def norm(self) -> Norm:
        """The static part."""
        return Norm(self.eps)

    @property
    def array(self) -> mx.array:
        """What the kernel reads."""
        return self.weight


@dataclass(frozen=True, slots=True)
class Squares:
    """RMS norm over groups of a vector that already holds the weight: sums of squares [S, groups, partials] fp32."""

    sums: mx.array
    eps: float

    @property
    def norm(self) -> Norm:
        """The static part."""
        return Norm(self.eps, self.sums.shape[-2], self.sums.shape[-1])

    @property
    def array(self) -> mx.array:
        """What the kernel reads."""
        return self.sums


def term_of(matrix: Weight, norm: Gain | Squares | None) -> Term:
    """The static part of a matrix and of the norm before it."""
    return Term(bits_of(matrix), group_of(matrix), depth_of(matrix), norm.norm if norm else None)


def term_arrays(x_SD: mx.array, matrix: Weight, norm: Gain | Squares | None) -> list[mx.array]:
    """Kernel arguments of one term."""
    return [x_SD, *([norm.array] if norm else []), *arrays_of(matrix)]


@dataclass(frozen=True, slots=True)
class Output:
    """One matrix of a projection; `relu2` squares the positive part; `dtype` is bf16 or fp32."""

    matrix: Weight
    relu2: bool = False
    dtype: mx.Dtype = mx.bfloat16

    def job(self, vectors: int, gain: Gain | None, alone: bool) -> Job:
        """The job that computes this output, alone in its launch or not."""
        out = "f32" if self.dtype == mx.float32 else "bf16"
        rows = self.matrix.weight.shape[0]
        return job(Product((term_of(self.matrix, gain),), rows, vectors, relu2=self.relu2, out=out), alone=alone)


def project(x_SD: mx.array, outputs: Sequence[Output], gain: Gain | None = None) -> list[mx.array]:
    """`norm(x) @ W.T` for several matrices [N, D] of one input, in one launch; results [S, N]."""
    vectors = x_SD.shape[0]
    arrays = [array for output in outputs for array in term_arrays(x_SD, output.matrix, gain)]
    return launch(
        tuple(output.job(vectors, gain, len(outputs) == 1) for output in outputs),
        arrays,
        [(vectors, output.matrix.weight.shape[0]) for output in outputs],
        [output.dtype for output in outputs],
    )


def combine(
    pairs: Sequence[tuple[mx.array, Weight]], addends_SN: Sequence[mx.array], norm: Squares | None = None
) -> mx.array:
    """Sum of `x @ W.T` over pairs of x [S, D] and W [N, D], plus the addends [S, N]; `norm` goes with a single pair."""
    vectors, rows = pairs[0][0].shape[0], pairs[0][1].weight.shape[0]
    terms = tuple(term_of(matrix, norm) for _, matrix in pairs)
    arrays = [array for x, matrix in pairs for array in term_arrays(x, matrix, norm)]
    product = Product(terms, rows, vectors, addends=len(addends_SN))
    return launch((job(product),), [*arrays, *addends_SN], [(vectors, rows)], [mx.bfloat16])[0]
