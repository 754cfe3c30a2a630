"""Decode through the fused kernels: a layer's norm, mixer and residual sum in a few launches.

What a kernel does not take stays with `blocks`; `fuse` says why.

Shapes: T rows of a step, D hidden size, I attention's inner size.
"""

from dataclasses import dataclass

import mlx.core as mx

from kernels.mamba import decode as mamba
from kernels.matvec import weight
from kernels.matvec.launch import Gain, Output, combine, most_vectors, project
from kernels.moe import decode as moe
from worker.model.blocks import Attention, Weights, array_in, matrix_in
from worker.model.matrix import Matrix
from worker.model.state import Step
from worker.spec import AttentionSpec, MambaSpec, Mixer, MoESpec


@dataclass(frozen=True, slots=True)
class FusedMamba:
    """A Mamba-2 layer; `slot` is its place among the stage's Mamba layers."""

    layer: mamba.MambaWeights
    mixer: mamba.Mixer
    slot: int

    @property
    def most_rows(self) -> int:
        """Rows that one step may have."""
        return min(most_vectors(self.layer.in_proj), most_vectors(self.layer.out_proj, groups=self.mixer.groups))

    def __call__(self, x_TD: mx.array, step: Step) -> mx.array:
        """[T, D] to [T, D], residual included; advances the states of the step's pack."""
        pack, slot = step.batch, self.slot
        assert pack is not None
        y_TD, pack.tails[slot], pack.states[slot] = self.advance(x_TD, pack.tails[slot], pack.states[slot])
        return y_TD

    def advance(self, x_TD: mx.array, tail: mx.array, state: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """The output with its residual, the new tail [T, K-1, C] and state [T, H, P, N]."""
        return mamba.mamba_decode(x_TD, tail, state, self.layer, self.mixer)


@dataclass(frozen=True, slots=True)
class FusedMoE:
    """A mixture of experts."""

    layer: moe.MoEWeights
    routing: moe.Routing

    @property
    def most_rows(self) -> int:
        """Rows that one step may have."""
        m = self.layer
        return most_vectors(m.router, m.latent_in, m.shared_up, m.latent_out, m.shared_down)

    def __call__(self, x_TD: mx.array) -> mx.array:
        """[T, D] to [T, D], residual included."""
        return moe.moe_decode(x_TD, self.layer, self.routing)


@dataclass(frozen=True, slots=True)
class FusedAttention:
    """Attention: q, k and v in one launch (`enter`), MLX's own attention, the output projection with the residual
    (`leave`)."""

    gain: Gain
    inward: tuple[Matrix, Matrix, Matrix]
    outward: Matrix
    block: Attention

    @property
    def most_rows(self) -> int:
        """Rows that one step may have."""
        return most_vectors(*self.inward, self.outward)

    def __call__(self, x_TD: mx.array, step: Step) -> mx.array:
        """[T, D] to [T, D], residual included; appends to the sequences' keys and values."""
        return self.leave(self.block.attend(self.enter(x_TD), step), x_TD)

    def enter(self, x_TD: mx.array) -> list[mx.array]:
        """Queries, keys and values of the normed rows."""
        return project(x_TD, [Output(matrix) for matrix in self.inward], self.gain)

    def leave(self, attended_TI: mx.array, x_TD: mx.array) -> mx.array:
        """The output projection, plus x."""
        return combine([(attended_TI, self.outward)], [x_TD])


Fused = FusedMamba | FusedMoE | FusedAttention


@dataclass(frozen=True, slots=True)
class FusedHead:
    """The final norm and the head in one launch."""

    gain: Gain
    head: Matrix

    @property
    def most_rows(self) -> int:
        """Rows that one step may have."""
        return most_vectors(self.head)

    def __call__(self, x_SD: mx.array) -> mx.array:
        """[S, D] to logits [S, V] bf16."""
        return project(x_SD, [Output(self.head)], self.gain)[0]


def fuse_head(head: Matrix, norm_D: mx.array, eps: float) -> FusedHead | None:
    """The fused form of the end of a model, or None where there is none."""
    return FusedHead(Gain(norm_D, eps), head) if norm_D.dtype == mx.bfloat16 and not weight.why_not(head) else None


def fuse(spec: Mixer, eps: float, weights: Weights, slot: int, block: object) -> Fused | str:
    """The fused form of a layer, or why there is none."""
    norm = array_in(weights, "norm")
    if norm.dtype != mx.bfloat16:
        return f"its activations are {norm.dtype}, not bfloat16"
    gain = Gain(norm, eps)
    match spec:
        case MambaSpec():
            return _mamba(spec, gain, weights, slot)
        case MoESpec():
            return _moe(spec, gain, weights)
        case AttentionSpec():
            assert isinstance(block, Attention)
            q, k, v, o = (matrix_in(weights, f"{name}_proj") for name in "qkvo")
            for name, matrix in zip("qkvo", (q, k, v, o), strict=True):
                if reason := weight.why_not(matrix):
                    return f"{name}_proj: {reason}"
            return FusedAttention(gain, (q, k, v), o, block)
        case _:
            return "plain MLP layers have no kernel"


def _mamba(spec: MambaSpec, gain: Gain, weights: Weights, slot: int) -> FusedMamba | str:
    layer = mamba.MambaWeights(
        gain=gain,
        in_proj=matrix_in(weights, "in_proj"),
        conv=mx.contiguous(array_in(weights, "conv_weight")),
        conv_bias=array_in(weights, "conv_bias") if spec.conv_bias else None,
        rate=-mx.exp(array_in(weights, "A_log").astype(mx.float32)),
        skip=array_in(weights, "D").astype(mx.float32),
        dt_bias=array_in(weights, "dt_bias").astype(mx.float32),
        gate_gain=Gain(array_in(weights, "gate_norm"), gain.eps),
        out_proj=matrix_in(weights, "out_proj"),
    )
    small = (layer.conv, layer.conv_bias, layer.gate_gain.weight)
    if any(array is not None and array.dtype != mx.bfloat16 for array in small):
        return "its convolution or gate norm is not bfloat16"
    mixer = mamba.Mixer(
        spec.num_heads, spec.head_dim, spec.state_size, spec.num_groups, spec.conv_kernel, spec.time_step_limit
    )
    return mamba.why_not(layer, mixer) or FusedMamba(layer, mixer, slot)


def _moe(spec: MoESpec, gain: Gain, weights: Weights) -> FusedMoE | str:
    if spec.top_groups < spec.num_groups:
        return f"its router chooses {spec.top_groups} of {spec.num_groups} groups first"
    latent, shared = spec.latent_size is not None, spec.shared_size is not None
    layer = moe.MoEWeights(
        gain=gain,
        router=Matrix(array_in(weights, "gate_weight")),
        correction=array_in(weights, "correction_bias").astype(mx.float32),
        up=matrix_in(weights, "experts_up"),
        down=matrix_in(weights, "experts_down"),
        shared_up=matrix_in(weights, "shared_up") if shared else None,
        shared_down=matrix_in(weights, "shared_down") if shared else None,
        latent_in=matrix_in(weights, "latent_in") if latent else None,
        latent_out=matrix_in(weights, "latent_out") if latent else None,
    )
    # one expert of one keeps its score: the reference normalises from two on
    normalize = spec.normalize and spec.top_k > 1
    routing = moe.Routing(spec.num_experts, spec.top_k, normalize, spec.scaling)
    return moe.why_not(layer, routing) or FusedMoE(layer, routing)
