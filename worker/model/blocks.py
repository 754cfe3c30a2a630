"""The four kinds of layers. A block holds one layer's mixer and maps normalised rows to what is added to the residual.

Residual and norm belong to the stage. Everything but the Mamba recurrence and attention works on all rows of a step at
once, whoever they belong to.

Shapes: T rows of a step, D hidden size, E experts, I Mamba inner size, Q heads of
queries, V heads of keys and values, A their size, S positions so far.
"""

from collections.abc import Mapping, Sequence

import mlx.core as mx

from kernels import mamba, moe
from worker.model.matrix import Matrix
from worker.model.state import KeyValues, Step
from worker.spec import AttentionSpec, MambaSpec, MoESpec

Weights = Mapping[str, mx.array | Matrix]


class Mamba:
    """A Mamba-2 mixer; `slot` is its place among the stage's Mamba layers."""

    def __init__(self, spec: MambaSpec, eps: float, weights: Weights, slot: int) -> None:
        dtype = array_in(weights, "gate_norm").dtype
        self._slot = slot
        self._in, self._out = matrix_in(weights, "in_proj"), matrix_in(weights, "out_proj")
        self.parameters = mamba.Parameters(
            conv_weight_KC=mx.contiguous(array_in(weights, "conv_weight").T.astype(mx.float32)),
            conv_bias_C=array_in(weights, "conv_bias") if spec.conv_bias else None,
            A_H=-mx.exp(array_in(weights, "A_log").astype(mx.float32)),
            D_H=array_in(weights, "D").astype(dtype),
            dt_bias_H=array_in(weights, "dt_bias").astype(mx.float32),
            norm_I=array_in(weights, "gate_norm"),
            num_groups=spec.num_groups,
            state_size=spec.state_size,
            time_step_limit=spec.time_step_limit,
            eps=eps,
        )

    def __call__(self, x_TD: mx.array, step: Step) -> mx.array:
        """[T, D] to [T, D]; advances the states of the step's packs."""
        projected_TJ, slot = self._in(x_TD), self._slot
        order, parts = [], []
        if step.batch is not None:
            pack, rows = step.batch, step.single
            chosen_BJ = projected_TJ if len(rows) == len(x_TD) else projected_TJ[mx.array(rows)]
            y_BI, pack.tails[slot], pack.states[slot] = mamba.step(
                chosen_BJ, pack.tails[slot], pack.states[slot], self.parameters
            )
            order += rows
            parts.append(y_BI)
        for span, pack in step.scans:
            y_TI, pack.tails[slot], pack.states[slot] = mamba.scan(
                projected_TJ[span.start : span.end], pack.tails[slot], pack.states[slot], self.parameters
            )
            order += range(span.start, span.end)
            parts.append(y_TI)
        y_TI = parts[0] if len(parts) == 1 else mx.concatenate(parts)
        if order != sorted(order):
            y_TI = y_TI[mx.argsort(mx.array(order))]
        return self._out(y_TI)

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that the block holds."""
        return [*self._in.arrays, *self._out.arrays, *(p for p in self.parameters if isinstance(p, mx.array))]


class Attention:
    """Grouped-query attention without position embedding; `slot` is its place among the stage's attention layers."""

    def __init__(self, spec: AttentionSpec, weights: Weights, slot: int) -> None:
        self._spec, self._slot = spec, slot
        self._q, self._k, self._v, self._o = (matrix_in(weights, f"{name}_proj") for name in "qkvo")

    def __call__(self, x_TD: mx.array, step: Step) -> mx.array:
        """[T, D] to [T, D]; appends to the sequences' keys and values. Each sequence attends alone."""
        return self._o(self.attend((self._q(x_TD), self._k(x_TD), self._v(x_TD)), step))

    def attend(self, projected: Sequence[mx.array], step: Step) -> mx.array:
        """Queries, keys and values [T, ..] of all rows to [T, Q * A]; appends to the sequences' keys and values."""
        parts = []
        for span in step.spans:
            q_TX, k_TX, v_TX = projected if len(step.spans) == 1 else (p[span.start : span.end] for p in projected)
            parts.append(self._attend(q_TX, k_TX, v_TX, span.caches[self._slot]))
        return parts[0] if len(parts) == 1 else mx.concatenate(parts)

    def _attend(self, q_TX: mx.array, k_TX: mx.array, v_TX: mx.array, cache: KeyValues) -> mx.array:
        T, size = q_TX.shape[0], self._spec.head_dim
        q_1QTA, k_1VTA, v_1VTA = (p.reshape(1, T, -1, size).swapaxes(1, 2) for p in (q_TX, k_TX, v_TX))
        k_1VSA, v_1VSA = cache.append(k_1VTA, v_1VTA)
        # MLX aligns "causal" at the lower right: right for a chunk after a past
        y_1QTA = mx.fast.scaled_dot_product_attention(
            q_1QTA, k_1VSA, v_1VSA, scale=size**-0.5, mask="causal" if T > 1 else None
        )
        return y_1QTA.swapaxes(1, 2).reshape(T, -1)

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that the block holds."""
        return [a for matrix in (self._q, self._k, self._v, self._o) for a in matrix.arrays]


class MLP:
    """A plain MLP with squared ReLU."""

    def __init__(self, up: Matrix, down: Matrix) -> None:
        self._up, self._down = up, down

    def __call__(self, x_TD: mx.array, _: Step | None = None) -> mx.array:
        """[T, D] to [T, D]."""
        return self._down(moe.relu2(self._up(x_TD)))

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that the block holds."""
        return [*self._up.arrays, *self._down.arrays]


class MoE:
    """Routed experts, with a latent projection around them and shared experts beside them where the layer has them."""

    def __init__(self, spec: MoESpec, weights: Weights) -> None:
        self._spec = spec
        # float32 once here and not at every step
        self._gate_DE = mx.contiguous(array_in(weights, "gate_weight").astype(mx.float32).T)
        self._correction_E = array_in(weights, "correction_bias").astype(mx.float32)
        self._up, self._down = matrix_in(weights, "experts_up"), matrix_in(weights, "experts_down")
        latent = spec.latent_size is not None
        self._latent = (matrix_in(weights, "latent_in"), matrix_in(weights, "latent_out")) if latent else None
        shared = spec.shared_size is not None
        self._shared = MLP(matrix_in(weights, "shared_up"), matrix_in(weights, "shared_down")) if shared else None

    def __call__(self, x_TD: mx.array, step: Step) -> mx.array:
        """[T, D] to [T, D]. Router and shared experts see x itself, not its latent projection."""
        spec = self._spec
        indices_TK, scores_TK = moe.route(
            x_TD,
            self._gate_DE,
            self._correction_E,
            top_k=spec.top_k,
            num_groups=spec.num_groups,
            top_groups=spec.top_groups,
            normalize=spec.normalize,
            scaling=spec.scaling,
        )
        if self._latent is None:
            y_TD = moe.experts(x_TD, indices_TK, scores_TK, self._up, self._down)
        else:
            inward, outward = self._latent
            y_TD = outward(moe.experts(inward(x_TD), indices_TK, scores_TK, self._up, self._down))
        return y_TD if self._shared is None else y_TD + self._shared(x_TD)

    @property
    def expert_bytes(self) -> int:
        """Bytes of all routed experts."""
        return sum(a.nbytes for matrix in (self._up, self._down) for a in matrix.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that the block holds."""
        matrices = [self._up, self._down, *(self._latent or ())]
        shared = [] if self._shared is None else self._shared.arrays
        return [self._gate_DE, self._correction_E, *(a for matrix in matrices for a in matrix.arrays), *shared]


Block = Mamba | Attention | MLP | MoE


def matrix_in(weights: Weights, name: str) -> Matrix:
    """The weight of that name, which is a matrix."""
    matrix = weights[name]
    assert isinstance(matrix, Matrix), name
    return matrix


def array_in(weights: Weights, name: str) -> mx.array:
    """The weight of that name, which is a plain array."""
    array = weights[name]
    assert isinstance(array, mx.array), name
    return array
