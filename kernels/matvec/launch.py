"""Products of packed matrices with a few vectors, with what comes before and after them, one launch each.

Shapes: S vectors (1 to 8; on the matrix units to 16), D length of a row, N rows. Vectors and results bf16, sums fp32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from kernels import backend
from kernels.dialect.jobs import Job, launch
from kernels.matvec import tiles
from kernels.matvec.product import MAX_VECTORS, Norm, Product, Term, job
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


@dataclass(frozen=True, slots=True)
class Ready:
    """RMS norm of vectors that `prepare` has multiplied by the weight: 1 / rms of each, [S] fp32."""

    factors: mx.array

    @property
    def norm(self) -> Norm:
        """The static part."""
        return Norm(0.0, ready=True)

    @property
    def array(self) -> mx.array:
        """What the kernel reads."""
        return self.factors


def on_tiles(vectors: int, *matrices: Weight | None, groups: int = 1) -> bool:
    """Whether products of these matrices go through the matrix units: those that share a norm all do, or none.

    `groups` are those of a norm over parts of the vector.
    """
    return (
        backend.current().matrix_units
        and vectors >= tiles.FEWEST
        and all(m is None or tiles.takes(bits_of(m), group_of(m), depth_of(m) // groups) for m in matrices)
    )


def most_vectors(*matrices: Weight | None, groups: int = 1) -> int:
    """How many vectors the products of all these matrices take at once."""
    return tiles.MOST if on_tiles(tiles.MOST, *matrices, groups=groups) else MAX_VECTORS


def prepare(x_SD: mx.array, gain: Gain) -> tuple[mx.array, Ready]:
    """x and its norm for products on the matrix units: the vectors are normed once, in a launch of their own."""
    vectors, depth = x_SD.shape
    work = tiles.prepare_job(depth, vectors, gain.eps)
    weighed_SD, factors_S = launch(
        (work,), [x_SD, gain.weight], [(vectors, depth), (vectors,)], [mx.bfloat16, mx.float32]
    )
    return weighed_SD, Ready(factors_S)


def term_of(matrix: Weight, norm: Gain | Squares | Ready | None) -> Term:
    """The static part of a matrix and of the norm before it."""
    return Term(bits_of(matrix), group_of(matrix), depth_of(matrix), norm.norm if norm else None)


def term_arrays(x_SD: mx.array, matrix: Weight, norm: Gain | Squares | Ready | None) -> list[mx.array]:
    """Kernel arguments of one term."""
    return [x_SD, *([norm.array] if norm else []), *arrays_of(matrix)]


@dataclass(frozen=True, slots=True)
class Output:
    """One matrix of a projection; `relu2` squares the positive part; `dtype` is bf16 or fp32."""

    matrix: Weight
    relu2: bool = False
    dtype: mx.Dtype = mx.bfloat16

    def job(self, vectors: int, norm: Gain | Ready | None, alone: bool, units: bool) -> Job:
        """The job that computes this output, alone in its launch or not, on the matrix units or not."""
        out = "f32" if self.dtype == mx.float32 else "bf16"
        product = Product((term_of(self.matrix, norm),), self.matrix.weight.shape[0], vectors, self.relu2, out)
        return tiles.tile_job(product) if units else job(product, alone=alone)


def project(x_SD: mx.array, outputs: Sequence[Output], norm: Gain | Ready | None = None) -> list[mx.array]:
    """`norm(x) @ W.T` for several matrices [N, D] of one input, in one launch; results [S, N].

    On the matrix units a norm takes a launch before it, unless it is `Ready`.
    """
    vectors = x_SD.shape[0]
    units = isinstance(norm, Ready) or on_tiles(vectors, *(output.matrix for output in outputs))
    if units and isinstance(norm, Gain):
        x_SD, norm = prepare(x_SD, norm)
    arrays = [array for output in outputs for array in term_arrays(x_SD, output.matrix, norm)]
    return launch(
        tuple(output.job(vectors, norm, len(outputs) == 1, units) for output in outputs),
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
    units = on_tiles(vectors, *(matrix for _, matrix in pairs), groups=norm.norm.groups if norm else 1)
    work = tiles.tile_job(product) if units else job(product)
    return launch((work,), [*arrays, *addends_SN], [(vectors, rows)], [mx.bfloat16])[0]
