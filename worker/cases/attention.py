"""The products around attention.

Shapes: S sequences of one position each, D hidden size.
"""

from collections.abc import Iterator, Sequence

import mlx.core as mx

from kernels.matvec.launch import Output, combine, project
from kernels.matvec.weight import depth_of
from worker.cases.case import Case, Normed, at, product_case, random_rows
from worker.model.blocks import Weights, matrix_in
from worker.model.fused import FusedAttention


def attention_cases(
    forms: Sequence[FusedAttention], weights: Sequence[Weights], x_SD: mx.array, normed: Normed
) -> Iterator[Case]:
    """q, k and v; the output projection. Attention itself is MLX's."""

    def stock(turn: int, x: mx.array) -> mx.array:
        w = at(weights, turn)
        parts = [matrix_in(w, f"{name}_proj")(normed(w, x)) for name in "qkv"]
        return parts[0] + sum(part[:, :1] for part in parts[1:])

    yield product_case(
        "norm, q, k, v",
        [matrix_in(weights[0], f"{name}_proj") for name in "qkv"],
        x_SD,
        stock,
        lambda turn, x: project(x, [Output(m) for m in at(forms, turn).inward], at(forms, turn).gain)[0],
    )
    attended = random_rows(x_SD.shape[0], depth_of(matrix_in(weights[0], "o_proj")))
    yield product_case(
        "o, residual",
        [matrix_in(weights[0], "o_proj")],
        x_SD,
        lambda turn, x: x + matrix_in(at(weights, turn), "o_proj")(attended),
        lambda turn, x: combine([(attended, at(forms, turn).outward)], [x]),
    )
