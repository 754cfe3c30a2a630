"""A Mamba-2 layer for a few positions of a few sequences, in three launches.

    1  norm, in_proj
    2  convolution, silu, step size, state update, skip, gate       (the state is read and written once)
    3  group norm, out_proj, residual

Shapes: B sequences, S positions each, T = B * S tokens (1 to 8), D hidden, H heads of P channels, N state size, G
groups, C convolution channels H * P + 2 * G * N, W convolution taps, R rows of in_proj 2 * H * P + 2 * G * N + H.
"""

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from kernels.dialect.jobs import Job, launch
from kernels.dialect.kernel import SIMD
from kernels.matvec import weight
from kernels.matvec.launch import Gain, Output, Squares, combine, project
from kernels.matvec.product import HEADERS
from kernels.matvec.weight import Weight


@dataclass(frozen=True, slots=True)
class Mixer:
    """The sizes of a Mamba-2 mixer."""

    heads: int
    channels: int
    state: int
    groups: int
    taps: int
    limit: tuple[float, float] = (0.0, float("inf"))

    @property
    def inner(self) -> int:
        """Width of the gate: H * P."""
        return self.heads * self.channels

    @property
    def conv(self) -> int:
        """Channels of the convolution."""
        return self.inner + 2 * self.groups * self.state

    @property
    def rows(self) -> int:
        """Rows of in_proj."""
        return self.inner + self.conv + self.heads


@dataclass(frozen=True, slots=True)
class MambaWeights:
    """A layer's arrays: `in_proj` [R, D], `out_proj` [D, H * P], `conv` [C, W] bf16, `conv_bias` [C] bf16 or None.

    `rate` is -exp(A_log); it, `skip` (D) and `dt_bias` are [H] fp32. `gain` is the layer's norm, `gate_gain` the group
    norm before out_proj.
    """

    gain: Gain
    in_proj: Weight
    conv: mx.array
    conv_bias: mx.array | None
    rate: mx.array
    skip: mx.array
    dt_bias: mx.array
    gate_gain: Gain
    out_proj: Weight


def why_not(layer: MambaWeights, mixer: Mixer) -> str | None:
    """Why no kernel takes this layer, or None when one does."""
    for name, matrix in (("in_proj", layer.in_proj), ("out_proj", layer.out_proj)):
        if reason := weight.why_not(matrix):
            return f"{name}: {reason}"
    if mixer.state % SIMD:
        return f"its state size {mixer.state} is not a multiple of {SIMD}"
    if mixer.inner // mixer.groups % 32:
        return f"its norm groups of {mixer.inner // mixer.groups} are not a multiple of 32"
    return None


@dataclass(frozen=True, slots=True)
class StepCut:
    """`splits` threadgroups share a head, `simds` simdgroups each."""

    splits: int
    simds: int


@cache
def _step_job(mixer: Mixer, positions: int, every: bool, conv_bias: bool, cut: StepCut) -> Job:
    m = mixer
    low, high = m.limit
    highest = "INFINITY" if high == float("inf") else f"{high!r}f"
    sizes = f"{m.heads}, {m.channels}, {m.state}, {m.groups}, {m.taps}, {positions}, {cut.splits}, {cut.simds}"
    flags = f"{str(every).lower()}, {str(conv_bias).lower()}"
    halves = ", ".join(f"(GLOBAL const u16*)@{name}" for name in ("conv", "conv_bias" if conv_bias else "conv"))
    width = m.channels // cut.splits + 2 * m.state
    return Job(
        name="mamba_step",
        body=f"""mamba_step<{sizes}, {flags}>(
    (GLOBAL u16*)@gated, @squares, (GLOBAL u16*)@new_tail, @new_state, (GLOBAL const u16*)@projected,
    (GLOBAL const u16*)@tail, @state, {halves}, @rate, @skip, @dt_bias, (GLOBAL const u16*)@gate_weight,
    {low!r}f, {highest}, (SHARED float*)pool, group_y, block, tid, lane, simd);""",
        groups=m.heads * cut.splits,
        inputs=(
            *("projected", "tail", "state", "conv"),
            *(("conv_bias",) if conv_bias else ()),
            *("rate", "skip", "dt_bias", "gate_weight"),
        ),
        outputs=("gated", "squares", "new_tail", "new_state"),
        shared_bytes=4 * positions * (width + 1 + cut.simds),
        headers=(*HEADERS, ("mamba", "step.h")),
        threads=cut.simds * SIMD,
    )


def mamba_step(
    projected_TR: mx.array,
    tail_BWC: mx.array,
    state_BHPN: mx.array,
    layer: MambaWeights,
    mixer: Mixer,
    every: bool = False,
    cut: StepCut | None = None,
) -> tuple[mx.array, mx.array, mx.array, mx.array]:
    """What `out_proj` needs and the state after the last position.

    Gated output times the group norm's weight [T, H * P] bf16, its sums of squares before that weight [T, G, partials]
    fp32, tail [B, W - 1, C] bf16, state [B, H, P, N] fp32.

    With `every`, tail and state are kept after each position: [B, S, W - 1, C] and [B, S, H, P, N].
    """
    tokens, batch = projected_TR.shape[0], tail_BWC.shape[0]
    positions = tokens // batch
    cut = cut or StepCut(splits=2 if mixer.channels % 2 == 0 else 1, simds=8)
    after = (batch, positions) if every else (batch,)
    biased = [] if layer.conv_bias is None else [layer.conv_bias]
    small = [layer.conv, *biased, layer.rate, layer.skip, layer.dt_bias, layer.gate_gain.weight]
    gated, squares, tail, state = launch(
        (_step_job(mixer, positions, every, bool(biased), cut),),
        [projected_TR, tail_BWC, state_BHPN, *small],
        [
            (tokens, mixer.inner),
            (tokens, mixer.groups, mixer.heads * cut.splits // mixer.groups),
            (*after, mixer.taps - 1, mixer.conv),
            (*after, mixer.heads, mixer.channels, mixer.state),
        ],
        [mx.bfloat16, mx.float32, mx.bfloat16, mx.float32],
        batch=batch,
    )
    return gated, squares, tail, state


def mamba_decode(
    x_TD: mx.array, tail_BWC: mx.array, state_BHPN: mx.array, layer: MambaWeights, mixer: Mixer, every: bool = False
) -> tuple[mx.array, mx.array, mx.array]:
    """x + Mamba(norm(x)) [T, D], and the tail and state as `mamba_step` gives them; T is B * S, positions innermost."""
    (projected,) = project(x_TD, [Output(layer.in_proj)], layer.gain)
    gated, squares, tail, state = mamba_step(projected, tail_BWC, state_BHPN, layer, mixer, every)
    return combine([(gated, layer.out_proj)], [x_TD], Squares(squares, layer.gate_gain.eps)), tail, state
