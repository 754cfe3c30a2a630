"""The mixture of experts of Nemotron-H in plain MLX: the definition that the fused kernels must meet.

Shapes: T rows, D hidden size, E experts, K experts a row, L input width of an expert (the latent size, or D), F its
intermediate size, G groups of experts.
"""

from typing import Protocol

import mlx.core as mx

SORT_FROM = 64  # (row, expert) pairs; from here on rows that share an expert are worth bringing together


class Experts(Protocol):
    """A stack of E matrices [N, D], dense or quantised."""

    def gather(self, x: mx.array, indices: mx.array, *, ascending: bool = False) -> mx.array:
        """Rows x [.., 1, D] times the transposed matrices `indices` [..]: [.., 1, N]."""
        ...


def relu2(x: mx.array) -> mx.array:
    """max(x, 0)^2, element by element."""
    return mx.square(mx.maximum(x, 0))


def route(
    x_TD: mx.array,
    gate_DE: mx.array,
    correction_E: mx.array,
    *,
    top_k: int,
    num_groups: int,
    top_groups: int,
    normalize: bool,
    scaling: float,
) -> tuple[mx.array, mx.array]:
    """The experts of each row and their weights: indices [T, K] uint32 and scores [T, K] float32.

    `gate_DE` and `correction_E` are float32; so are logits, sigmoid and scores, whatever the dtype of x. The
    correction takes part in the choice only. Experts come in descending order of corrected score; of equal ones the
    lower index comes first (`argsort` is stable). With more than one group a group counts by its two best corrected
    scores, the worst groups' scores become 0 and compete on (as in DeepSeek-V3); of equal groups the lower one stays.
    """
    scores_TE = mx.sigmoid(x_TD.astype(mx.float32) @ gate_DE)
    choice_TE = scores_TE + correction_E
    if top_groups < num_groups:
        choice_TE = _mask_groups(choice_TE, num_groups, top_groups)
    indices_TK = mx.argsort(-choice_TE, axis=-1)[:, :top_k]
    scores_TK = mx.take_along_axis(scores_TE, indices_TK, axis=-1)
    if normalize and top_k > 1:
        scores_TK = scores_TK / (scores_TK.sum(axis=-1, keepdims=True) + 1e-20)
    return indices_TK, scores_TK * scaling


def experts(x_TL: mx.array, indices_TK: mx.array, scores_TK: mx.array, up: Experts, down: Experts) -> mx.array:
    """sum over k of score_k * down_k(relu2(up_k(x))): [T, L] in the dtype of x.

    Products round to the dtype of x; the weighted sum is float32 and rounds once. `up` maps L to F, `down` F to L.
    """
    T, K = indices_TK.shape
    if T * K < SORT_FROM:
        hidden_TK1F = relu2(up.gather(x_TL[:, None, None, :], indices_TK))
        y_TKL = down.gather(hidden_TK1F, indices_TK).squeeze(-2)
    else:
        flat_P = indices_TK.flatten()
        order_P = mx.argsort(flat_P)
        ascending_P = flat_P[order_P]
        hidden_P1F = relu2(up.gather(x_TL[order_P // K][:, None, :], ascending_P, ascending=True))
        y_PL = down.gather(hidden_P1F, ascending_P, ascending=True).squeeze(-2)
        y_TKL = y_PL[mx.argsort(order_P)].reshape(T, K, -1)
    return (y_TKL * scores_TK[..., None]).sum(axis=-2).astype(x_TL.dtype)


def _mask_groups(choice_TE: mx.array, num_groups: int, top_groups: int) -> mx.array:
    choice_TGM = choice_TE.reshape(choice_TE.shape[0], num_groups, -1)
    group_TG = mx.topk(choice_TGM, 2, axis=-1).sum(axis=-1)
    dropped_TX = mx.argsort(-group_TG, axis=-1)[:, top_groups:]
    masked_TGM = mx.put_along_axis(choice_TGM, dropped_TX[..., None], mx.array(0.0), axis=1)
    return masked_TGM.reshape(choice_TE.shape)
