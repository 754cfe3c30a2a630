"""The operations of a Mamba layer.

Shapes: S sequences of one position each, D hidden size, R rows of in_proj.
"""

from collections.abc import Iterator, Sequence

import mlx.core as mx

from kernels import mamba
from kernels.mamba.decode import mamba_step
from kernels.matvec.launch import Output, Squares, combine, project
from worker.cases.case import Case, Normed, at, copies_of, fresh_step, product_case, random_rows, state_bytes
from worker.model.blocks import Weights, matrix_in
from worker.model.fused import FusedMamba
from worker.spec import MambaSpec


def mamba_cases(
    layer: MambaSpec,
    forms: Sequence[FusedMamba],
    parameters: Sequence[mamba.Parameters],
    weights: Sequence[Weights],
    x_SD: mx.array,
    normed: Normed,
) -> Iterator[Case]:
    """The three launches of a layer."""
    batch, inner, groups = x_SD.shape[0], layer.inner_size, layer.num_groups
    yield product_case(
        "norm, in_proj",
        [matrix_in(weights[0], "in_proj")],
        x_SD,
        lambda turn, x: matrix_in(at(weights, turn), "in_proj")(normed(at(weights, turn), x)),
        lambda turn, x: project(x, [Output((m := at(forms, turn).layer).in_proj)], m.gain)[0],
    )
    packs = [pack for _ in range(copies_of(state_bytes(layer, batch))) if (pack := fresh_step(layer, batch).batch)]

    def step(turn: int, projected: mx.array) -> mx.array:
        pack = at(packs, turn)
        how = at(parameters, turn)
        y, pack.tails[0], pack.states[0] = mamba.step(projected, pack.tails[0], pack.states[0], how)
        return y

    def step_fused(turn: int, projected: mx.array) -> mx.array:
        pack, form = at(packs, turn), at(forms, turn)
        tail, state = pack.tails[0], pack.states[0]
        y, _, pack.tails[0], pack.states[0] = mamba_step(projected, tail, state, form.layer, form.mixer)
        return y

    yield Case(
        "convolution, state, gate",
        f"{layer.num_heads} x {layer.head_dim} x {layer.state_size}",
        state_bytes(layer, batch),
        random_rows(batch, layer.in_proj_size),
        step,
        step_fused,
    )
    gated, sums = random_rows(batch, inner), mx.ones((batch, groups, 2 * layer.num_heads // groups))
    eps = parameters[0].eps
    yield product_case(
        "group norm, out_proj, residual",
        [matrix_in(weights[0], "out_proj")],
        x_SD,
        lambda turn, x: x + matrix_in(at(weights, turn), "out_proj")(gated),
        lambda turn, x: combine([(gated, at(forms, turn).layer.out_proj)], [x], Squares(sums, eps)),
    )
