"""One operation, done by its fused kernel and by MLX's own operations, and what its makers share.

Weights are random. There are as many of each as no cache holds, and every turn takes the next.

Shapes: S sequences of one position each, D length of a row, N rows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import mlx.core as mx

from kernels.matvec.launch import most_vectors
from kernels.matvec.weight import depth_of
from worker.model.blocks import Weights
from worker.model.matrix import Matrix
from worker.model.state import StageState, Step
from worker.spec import MambaSpec, Mixer
from worker.timing import Operation

CACHE_BYTES = 256 << 20  # more than any cache holds
Taken = TypeVar("Taken")
Normed = Callable[[Weights, mx.array], mx.array]


@dataclass(frozen=True, slots=True)
class Case:
    """One operation; `fused` is the reason where no kernel takes it. `nbytes`: weights and state, read and written."""

    name: str
    shape: str
    nbytes: int
    x: mx.array
    stock: Operation
    fused: Operation | str


def product_case(name: str, matrices: Sequence[Matrix], x: mx.array, stock: Operation, fused: Operation) -> Case:
    """A case of one launch that multiplies by `matrices`; its bytes are theirs."""
    rows = " + ".join(str(matrix.weight.shape[-2]) for matrix in matrices)
    shape = f"{depth_of(matrices[0])} -> {rows}"
    return Case(name, shape, sum(m.nbytes for m in matrices), x, stock, few(x, fused, most_vectors(*matrices)))


def few(x: mx.array, fused: Operation, most: int) -> Operation | str:
    """The fused product, which takes so many rows and no more."""
    return fused if x.shape[0] <= most else f"{x.shape[0]} rows, its products take {most}"


def copies_of(nbytes: int, at_most: int = 64) -> int:
    """How many things of so many bytes no cache holds, within reason."""
    return min(at_most, max(2, math.ceil(CACHE_BYTES / max(1, nbytes))))


def at(things: Sequence[Taken], turn: int) -> Taken:
    """The thing whose turn it is."""
    return things[turn % len(things)]


def random_rows(batch: int, *widths: int) -> mx.array:
    """[S, widths] bf16, evaluated."""
    rows = mx.random.normal((batch, *widths), key=mx.random.key(batch + sum(widths))).astype(mx.bfloat16)
    mx.eval(rows)
    return rows


def fresh_step(layer: Mixer, batch: int) -> Step:
    """A step of S sequences at their first position."""
    state = StageState([layer], mx.bfloat16)
    for request in range(batch):
        state.open(request)
    return state.begin([(request, 1) for request in range(batch)])


def state_bytes(layer: Mixer, batch: int) -> int:
    """Read and written."""
    return 8 * batch * layer.inner_size * layer.state_size if isinstance(layer, MambaSpec) else 0
