"""Random layers in the kernels' formats, and what they compute, in fp32 with plain MLX operations.

The expected values are computed on the CPU: MLX's CUDA backend multiplies fp32 matrices in TF32, 11 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import ParamSpec, TypeVar

import mlx.core as mx

from kernels.mamba.decode import MambaWeights, Mixer
from kernels.matvec.launch import Gain
from kernels.moe.decode import MoEWeights, Routing

EPS = 1e-5
P, R = ParamSpec("P"), TypeVar("R")


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with mx.stream(mx.cpu):
            return function(*args, **kwargs)

    return run


@dataclass(frozen=True)
class Packing:
    bits: int
    group_size: int
    mode: str = "affine"


@dataclass(frozen=True)
class Packed:
    weight: mx.array
    scales: mx.array | None = None
    biases: mx.array | None = None
    quantization: Packing | None = None
    bias: mx.array | None = None

    @property
    def dense(self) -> mx.array:
        if self.quantization is None:
            return self.weight.astype(mx.float32)
        scales, biases = self.scales.astype(mx.float32), self.biases.astype(mx.float32)
        return mx.dequantize(
            self.weight, scales, biases, group_size=self.quantization.group_size, bits=self.quantization.bits
        )


class Maker:
    """Draws random arrays from one seed."""

    def __init__(self, seed: int) -> None:
        self._key = mx.random.key(seed)

    def normal(self, *shape: int, dtype: mx.Dtype = mx.bfloat16) -> mx.array:
        self._key, key = mx.random.split(self._key)
        return mx.random.normal(shape, key=key).astype(dtype)

    def matrix(self, *shape: int, bits: int = 16, group: int = 32) -> Packed:
        weight = (self.normal(*shape, dtype=mx.float32) * shape[-1] ** -0.5).astype(mx.bfloat16)
        if bits == 16:
            return Packed(weight)
        return Packed(*mx.quantize(weight, group_size=group, bits=bits), Packing(bits, group))

    def gain(self, size: int) -> Gain:
        return Gain((1 + 0.2 * self.normal(size, dtype=mx.float32)).astype(mx.bfloat16), EPS)

    def moe(self, sizes: dict[str, int], bits: int, group: int, latent: bool, shared: bool) -> MoEWeights:
        hidden, experts, inner = sizes["hidden"], sizes["experts"], sizes["inner"]
        width = sizes["latent"] if latent else hidden
        how = {"bits": bits, "group": group}
        return MoEWeights(
            gain=self.gain(hidden),
            router=self.matrix(experts, hidden),
            correction=self.normal(experts, dtype=mx.float32) * 0.1,
            up=self.matrix(experts, inner, width, **how),
            down=self.matrix(experts, width, inner, **how),
            shared_up=self.matrix(sizes["shared"], hidden, **how) if shared else None,
            shared_down=self.matrix(hidden, sizes["shared"], **how) if shared else None,
            latent_in=self.matrix(width, hidden, **how) if latent else None,
            latent_out=self.matrix(hidden, width, **how) if latent else None,
        )

    def mamba(self, hidden: int, mixer: Mixer, bits: int, group: int, conv_bias: bool = True) -> MambaWeights:
        return MambaWeights(
            gain=self.gain(hidden),
            in_proj=self.matrix(mixer.rows, hidden, bits=bits, group=group),
            conv=self.normal(mixer.conv, mixer.taps) * 0.5,
            conv_bias=self.normal(mixer.conv) if conv_bias else None,
            rate=-mx.exp(self.normal(mixer.heads, dtype=mx.float32)),
            skip=self.normal(mixer.heads, dtype=mx.float32),
            dt_bias=self.normal(mixer.heads, dtype=mx.float32) - 2,
            gate_gain=self.gain(mixer.inner),
            out_proj=self.matrix(hidden, mixer.inner, bits=bits, group=group),
        )


def wide(array: mx.array) -> mx.array:
    return array.astype(mx.float32)


@on_cpu
def error(got: mx.array, want: mx.array) -> float:
    """Relative error in the 2-norm; NaN if anything was left unwritten."""
    return (mx.linalg.norm(wide(got) - want) / mx.linalg.norm(want)).item()


@on_cpu
def times(x: mx.array, matrix: Packed, expert: int | None = None) -> mx.array:
    """x W^T."""
    return wide(x) @ (matrix.dense if expert is None else matrix.dense[expert]).T


def rms(x: mx.array, groups: int = 1) -> mx.array:
    parts = x.reshape(*x.shape[:-1], groups, -1)
    return (parts * mx.rsqrt((parts * parts).mean(-1, keepdims=True) + EPS)).reshape(x.shape)


@on_cpu
def normed(x: mx.array, gain: Gain) -> mx.array:
    return rms(wide(x)) * wide(gain.weight)


def relu2(x: mx.array) -> mx.array:
    return mx.square(mx.maximum(x, 0))


@on_cpu
def moe_keys(x: mx.array, layer: MoEWeights) -> tuple[mx.array, mx.array]:
    """Scores and corrected scores of all experts."""
    scores = mx.sigmoid(normed(x, layer.gain) @ layer.router.dense.T)
    return scores, scores + layer.correction


@on_cpu
def moe(x: mx.array, layer: MoEWeights, routing: Routing, chosen: mx.array) -> mx.array:
    """What the layer adds to x when `chosen` [T, K] are its experts."""
    z = normed(x, layer.gain)
    weights = mx.take_along_axis(moe_keys(x, layer)[0], chosen, axis=-1)
    if routing.normalize:
        weights = weights / (weights.sum(-1, keepdims=True) + 1e-20)
    inward = z @ layer.latent_in.dense.T if layer.latent_in else z
    up, down = layer.up.dense, layer.down.dense
    rows = []
    for t in range(x.shape[0]):
        hidden = relu2(mx.einsum("kil,l->ki", up[chosen[t]], inward[t]))
        rows.append((mx.einsum("kli,ki->kl", down[chosen[t]], hidden) * weights[t][:, None]).sum(0))
    y = mx.stack(rows) * routing.scaling
    if layer.latent_out:
        y = y @ layer.latent_out.dense.T
    if layer.shared_up:
        y = y + relu2(z @ layer.shared_up.dense.T) @ layer.shared_down.dense.T
    return y


@on_cpu
def mamba(
    x_BSD: mx.array, tail: mx.array, state: mx.array, layer: MambaWeights, m: Mixer
) -> tuple[mx.array, mx.array, mx.array]:
    """What the layer adds to x, and tail and state after every position."""
    batch, positions, _ = x_BSD.shape
    projected = normed(x_BSD, layer.gain) @ layer.in_proj.dense.T
    gate, row, dt = mx.split(projected, [m.inner, m.inner + m.conv], axis=-1)
    window = mx.concatenate([wide(tail), row], axis=1)
    bias = 0.0 if layer.conv_bias is None else wide(layer.conv_bias)
    ys, tails, states = [], [], []
    for s in range(positions):
        c = (window[:, s : s + m.taps] * wide(layer.conv).T[None]).sum(1) + bias
        c = c * mx.sigmoid(c)
        x, keys, queries = mx.split(c, [m.inner, m.inner + m.groups * m.state], axis=-1)
        x = x.reshape(batch, m.heads, m.channels)
        keys, queries = (
            mx.repeat(part.reshape(batch, m.groups, m.state), m.heads // m.groups, axis=1) for part in (keys, queries)
        )
        step = mx.clip(mx.logaddexp(dt[:, s] + layer.dt_bias, mx.array(0.0)), *m.limit)
        state = state * mx.exp(step * layer.rate)[..., None, None] + (step[..., None] * x)[..., None] * keys[:, :, None]
        y = (state * queries[:, :, None]).sum(-1) + layer.skip[:, None] * x
        y = y.reshape(batch, -1) * gate[:, s] * mx.sigmoid(gate[:, s])
        ys.append(rms(y, m.groups) * wide(layer.gate_gain.weight) @ layer.out_proj.dense.T)
        tails.append(window[:, s + 1 : s + m.taps])
        states.append(state)
    return mx.stack(ys, 1), mx.stack(tails, 1), mx.stack(states, 1)
