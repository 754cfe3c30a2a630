"""The Mamba-2 mixer of Nemotron-H between its projections, in plain MLX: what the fused kernels must agree with.

Shapes: B sequences, T rows of one sequence, J = 2 I + 2 G N + H columns of the input projection, I = H P inner size,
H heads, P head size, G groups (the heads of a group share keys and queries), R = H / G heads a group, N state size,
C = I + 2 G N channels of the convolution, K its width, Q rows of a chunk.

Dtypes: what passes between the parts (convolution output, y, gate, norm) rounds to the activation dtype, time step,
decay and state are float32. The matrices called B and C elsewhere are `keys` and `queries` here: they play these parts.
"""

from typing import NamedTuple

import mlx.core as mx

CHUNK = 64


class Parameters(NamedTuple):
    """What a mixer holds besides its projections; `dt_bias`, `A` = -exp(A_log) in float32, the rest as activations."""

    conv_weight_KC: mx.array  # float32 copy, see `_convolve`
    conv_bias_C: mx.array | None
    A_H: mx.array
    D_H: mx.array
    dt_bias_H: mx.array
    norm_I: mx.array
    num_groups: int
    state_size: int
    time_step_limit: tuple[float, float]
    eps: float


def step(
    projected_BJ: mx.array, tail_BKC: mx.array, state_BHPN: mx.array, p: Parameters
) -> tuple[mx.array, mx.array, mx.array]:
    """One position of B sequences: y [B, I], the next tail [B, K-1, C] and the next state [B, H, P, N].

    `tail` holds the convolution's last K - 1 inputs. state' = exp(dt A) state + dt x (outer) keys;
    y = state' queries + D x.
    """
    B, H, P, N = state_BHPN.shape
    gate_BI, input_BC, dt_BH = _split(projected_BJ, p)
    window_BKC = mx.concatenate([tail_BKC, input_BC[:, None]], axis=1)
    x_BHP, keys_BGN, queries_BGN = _channels(_convolve(window_BKC, p)[:, 0], p)
    dt_BH = _time_step(dt_BH, p)
    dtx_BGRP1 = (x_BHP * dt_BH[..., None]).reshape(B, p.num_groups, -1, P, 1)
    update_BHPN = (dtx_BGRP1 * keys_BGN[:, :, None, None]).reshape(state_BHPN.shape)
    state_BHPN = state_BHPN * mx.exp(dt_BH * p.A_H)[..., None, None] + update_BHPN
    # multiply and add: MLX's CPU matrix-vector product takes five times as long
    y_BHP = (state_BHPN.reshape(B, p.num_groups, -1, N) * queries_BGN[:, :, None]).sum(axis=-1).reshape(x_BHP.shape)
    y_BI = _gated_norm(y_BHP, x_BHP, gate_BI, p)
    # a copy: a view would keep all K rows of the window alive
    return y_BI, mx.contiguous(window_BKC[:, 1:]), state_BHPN


def scan(
    projected_TJ: mx.array, tail_1KC: mx.array, state_1HPN: mx.array, p: Parameters
) -> tuple[mx.array, mx.array, mx.array]:
    """T positions of one sequence, as `step` would take them one after the other: y [T, I], next tail, next state.

    The recurrence runs by chunks of Q rows (SSD, arXiv 2405.21060, section 6): inside a chunk as a masked matrix
    product, from chunk to chunk through the state. Equal to `step` up to the order of float32 sums.
    """
    T = projected_TJ.shape[0]
    gate_TI, input_TC, dt_TH = _split(projected_TJ, p)
    window_1XC = mx.concatenate([tail_1KC, input_TC[None]], axis=1)
    x_THP, keys_TGN, queries_TGN = _channels(_convolve(window_1XC, p)[0], p)
    dt_TH = _time_step(dt_TH, p)
    dtx_THP = x_THP * dt_TH[..., None]
    decay_TH = dt_TH * p.A_H
    keys_TGN, queries_TGN = keys_TGN.astype(mx.float32), queries_TGN.astype(mx.float32)
    parts, state_HPN = [], state_1HPN[0]
    for first in range(0, T, CHUNK):
        rows = slice(first, first + CHUNK)
        y_QHP, state_HPN = _chunk(dtx_THP[rows], decay_TH[rows], keys_TGN[rows], queries_TGN[rows], state_HPN)
        parts.append(y_QHP)
    y_THP = parts[0] if len(parts) == 1 else mx.concatenate(parts)
    y_TI = _gated_norm(y_THP, x_THP, gate_TI, p)
    return y_TI, mx.contiguous(window_1XC[:, T:]), state_HPN[None]


def _chunk(
    dtx_QHP: mx.array, decay_QH: mx.array, keys_QGN: mx.array, queries_QGN: mx.array, state_HPN: mx.array
) -> tuple[mx.array, mx.array]:
    """One chunk of the scan: y [Q, H, P] without D x, and the state after it. All float32; `decay` is dt A <= 0."""
    Q, H, P = dtx_QHP.shape
    G, N = keys_QGN.shape[1:]
    keys_GQN, queries_GQN = keys_QGN.swapaxes(0, 1), queries_QGN.swapaxes(0, 1)
    dtx_HQP, decay_HQ = dtx_QHP.swapaxes(0, 1), decay_QH.T
    # between_ij: product of the decays of rows j+1..i, by masked sums: differences of one running sum would cancel
    between_HQQ = mx.exp(mx.cumsum(mx.tril(mx.broadcast_to(decay_HQ[..., None], (H, Q, Q)), -1), axis=1))
    scores_GQQ = mx.tril(queries_GQN @ keys_GQN.swapaxes(1, 2))
    weights_HQQ = (between_HQQ.reshape(G, -1, Q, Q) * scores_GQQ[:, None]).reshape(H, Q, Q)
    since_HQ1 = mx.exp(mx.cumsum(decay_HQ, axis=1))[..., None]
    carried_GQX = queries_GQN @ state_HPN.reshape(G, -1, N).swapaxes(1, 2)
    carried_HQP = carried_GQX.reshape(G, Q, -1, P).swapaxes(1, 2).reshape(H, Q, P)
    y_HQP = weights_HQQ @ dtx_HQP + since_HQ1 * carried_HQP
    left_HQP = dtx_HQP * between_HQQ[:, -1, :, None]
    added_GXN = left_HQP.swapaxes(1, 2).reshape(G, -1, Q) @ keys_GQN
    state_HPN = state_HPN * since_HQ1[:, -1:] + added_GXN.reshape(H, P, N)
    return y_HQP.swapaxes(0, 1), state_HPN


def _split(projected: mx.array, p: Parameters) -> tuple[mx.array, mx.array, mx.array]:
    """Gate, convolution input and raw time step of the input projection's columns."""
    inner, channels = p.norm_I.shape[0], p.conv_weight_KC.shape[1]
    gate, convolved, dt = mx.split(projected, [inner, inner + channels], axis=-1)
    return gate, convolved, dt


def _convolve(window_BXC: mx.array, p: Parameters) -> mx.array:
    """Causal depthwise convolution, bias, silu: rows K - 1 .. X - 1 of the window, [B, X-K+1, C].

    A float32 sum in order of k, rounded before the bias is added: bit for bit `mx.conv1d` on the CPU, and in prefill
    ten times faster there.
    """
    K = p.conv_weight_KC.shape[0]
    rows = window_BXC.shape[1] - K + 1
    y = window_BXC[:, :rows] * p.conv_weight_KC[0]
    for k in range(1, K):
        y = y + window_BXC[:, k : k + rows] * p.conv_weight_KC[k]
    y = y.astype(window_BXC.dtype)
    if p.conv_bias_C is not None:
        y = y + p.conv_bias_C
    return y * mx.sigmoid(y)


def _channels(y_TC: mx.array, p: Parameters) -> tuple[mx.array, mx.array, mx.array]:
    """x [T, H, P], keys and queries [T, G, N] of the convolution's output."""
    T, inner, width = y_TC.shape[0], p.norm_I.shape[0], p.num_groups * p.state_size
    x_TI, keys_TX, queries_TX = mx.split(y_TC, [inner, inner + width], axis=-1)
    x_THP = x_TI.reshape(T, p.A_H.shape[0], -1)
    return x_THP, keys_TX.reshape(T, -1, p.state_size), queries_TX.reshape(T, -1, p.state_size)


def _time_step(dt_TH: mx.array, p: Parameters) -> mx.array:
    """softplus(dt + bias) clipped to `time_step_limit`, float32. (`time_step_min` of a config is for training only.)"""
    dt_TH = mx.logaddexp(dt_TH.astype(mx.float32) + p.dt_bias_H, 0.0)
    low, high = p.time_step_limit
    # softplus lies in (0, inf) already
    return dt_TH if (low, high) == (0.0, float("inf")) else mx.clip(dt_TH, low, high)


def _gated_norm(y_THP: mx.array, x_THP: mx.array, gate_TI: mx.array, p: Parameters) -> mx.array:
    """weight * RMSNorm by groups (silu(gate) * (y + D x)): [T, I] in the activation dtype."""
    y_THP = y_THP.astype(x_THP.dtype) + x_THP * p.D_H[:, None]
    gated_TI = gate_TI * mx.sigmoid(gate_TI) * y_THP.reshape(gate_TI.shape)
    normed_TGX = mx.fast.rms_norm(gated_TI.reshape(gate_TI.shape[0], p.num_groups, -1), None, p.eps)
    return normed_TGX.reshape(gate_TI.shape) * p.norm_I
