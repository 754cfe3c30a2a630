"""The Mamba reference against the recurrence in float64, and its two forms against each other."""

import mlx.core as mx
import numpy as np
import pytest

from kernels import mamba
from kernels.mamba import reference

H, P, G, N, K = 6, 5, 3, 8, 4
INNER, C = H * P, H * P + 2 * G * N
J = INNER + C + H
NO_LIMIT = (0.0, float("inf"))


def parameters(dtype: mx.Dtype = mx.float32, limit: tuple[float, float] = NO_LIMIT, bias: bool = True):
    return mamba.Parameters(
        conv_weight_KC=mx.random.normal((K, C)).astype(dtype).astype(mx.float32),
        conv_bias_C=mx.random.normal((C,)).astype(dtype) if bias else None,
        A_H=-mx.exp(mx.random.normal((H,))),
        D_H=mx.random.normal((H,)).astype(dtype),
        dt_bias_H=mx.random.normal((H,)),
        norm_I=mx.random.normal((INNER,)).astype(dtype),
        num_groups=G,
        state_size=N,
        time_step_limit=limit,
        eps=1e-5,
    )


def start(sequences: int = 1, dtype: mx.Dtype = mx.float32) -> tuple[mx.array, mx.array]:
    return mx.random.normal((sequences, K - 1, C)).astype(dtype), mx.random.normal((sequences, H, P, N))


def by_definition(projected, tail, state, p: mamba.Parameters):
    """One sequence, one position after the other, in float64."""
    rows, window, state = np.array(projected, np.float64), np.array(tail, np.float64), np.array(state, np.float64)
    weight, bias = np.array(p.conv_weight_KC, np.float64), 0.0 if p.conv_bias_C is None else np.array(p.conv_bias_C)
    A, D, dt_bias, norm = (np.array(a, np.float64) for a in (p.A_H, p.D_H, p.dt_bias_H, p.norm_I))
    ys = []
    for row in rows:
        gate, new, dt = np.split(row, [INNER, INNER + C])
        window = np.concatenate([window, new[None]])[-K:]
        conv = (window * weight).sum(axis=0) + bias
        conv = conv / (1 + np.exp(-conv))
        x, B, Q = np.split(conv, [INNER, INNER + G * N])
        x, B, Q = x.reshape(H, P), B.reshape(G, N).repeat(H // G, axis=0), Q.reshape(G, N).repeat(H // G, axis=0)
        dt = np.clip(np.logaddexp(0, dt + dt_bias), *p.time_step_limit)
        state = np.exp(dt * A)[:, None, None] * state + dt[:, None, None] * x[:, :, None] * B[:, None]
        y = (state * Q[:, None]).sum(axis=-1) + D[:, None] * x
        y = (gate / (1 + np.exp(-gate)) * y.reshape(INNER)).reshape(G, -1)
        ys.append((y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + p.eps)).reshape(INNER) * norm)
    return np.stack(ys), window[1 - K :], state


def assert_close(got: mx.array, wanted, tolerance: float = 1e-4) -> None:
    # float32 keeps 6e-8, but D x may cancel most of the state's part, and the norm then magnifies what is left
    np.testing.assert_allclose(np.array(got.astype(mx.float32)), wanted, rtol=tolerance, atol=tolerance)


@pytest.fixture(autouse=True)
def _seed() -> None:
    mx.random.seed(7)


@pytest.mark.parametrize("limit", [NO_LIMIT, (0.3, 0.9)], ids=["unlimited", "limited"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
def test_step_follows_the_definition(limit: tuple[float, float], bias: bool) -> None:
    p, projected, (tail, state) = parameters(limit=limit, bias=bias), mx.random.normal((3, J)), start(3)
    y, next_tail, next_state = mamba.step(projected, tail, state, p)
    for b in range(3):
        wanted_y, wanted_tail, wanted_state = by_definition(projected[b : b + 1], tail[b], state[b], p)
        assert_close(y[b], wanted_y[0])
        assert_close(next_tail[b], wanted_tail)
        assert_close(next_state[b], wanted_state)


@pytest.mark.parametrize("rows", [1, 2, 3, 63, 64, 65, 130])
def test_scan_follows_the_definition(rows: int) -> None:
    p, projected, (tail, state) = parameters(), mx.random.normal((rows, J)), start()
    y, next_tail, next_state = mamba.scan(projected, tail, state, p)
    wanted_y, wanted_tail, wanted_state = by_definition(projected, tail[0], state[0], p)
    assert_close(y, wanted_y)
    assert_close(next_tail[0], wanted_tail)
    assert_close(next_state[0], wanted_state)


def test_scan_keeps_precision_when_early_rows_decay_fast() -> None:
    # the running sum of dt A reaches -1e5 here; a difference of two such sums would have lost what rows 40.. need
    p, (tail, state) = parameters()._replace(A_H=-mx.ones(H)), start()
    dt = mx.concatenate([mx.full((40, H), 2000.0), mx.full((24, H), -2.0)])
    projected = mx.concatenate([mx.random.normal((64, INNER + C)), dt], axis=1)
    y, _, next_state = mamba.scan(projected, tail, state, p)
    wanted_y, _, wanted_state = by_definition(projected, tail[0], state[0], p)
    assert_close(y, wanted_y)
    assert_close(next_state[0], wanted_state)


def test_state_stays_float32_and_the_rest_in_the_activation_dtype() -> None:
    p, (tail, state) = parameters(mx.bfloat16), start(1, mx.bfloat16)
    for run, rows in ((mamba.step, 1), (mamba.scan, 5)):
        y, next_tail, next_state = run(mx.random.normal((rows, J)).astype(mx.bfloat16), tail, state, p)
        assert (y.dtype, next_tail.dtype, next_state.dtype) == (mx.bfloat16, mx.bfloat16, mx.float32)
        assert (y.shape, next_tail.shape, next_state.shape) == ((rows, INNER), tail.shape, state.shape)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16], ids=["float32", "bfloat16"])
def test_convolution_equals_conv1d_bit_for_bit(dtype: mx.Dtype) -> None:
    p, window = parameters(dtype), mx.random.normal((2, 9, C)).astype(dtype)
    weight_CK1 = p.conv_weight_KC.T[..., None].astype(dtype)
    y = mx.conv1d(window, weight_CK1, groups=C) + p.conv_bias_C
    assert mx.array_equal(reference._convolve(window, p), y * mx.sigmoid(y))


def test_step_of_a_batch_equals_each_sequence_alone_bit_for_bit() -> None:
    p, projected, (tail, state) = parameters(), mx.random.normal((5, J)), start(5)
    together = mamba.step(projected, tail, state, p)
    for b in range(5):
        row = slice(b, b + 1)
        for one, all_ in zip(mamba.step(projected[row], tail[row], state[row], p), together, strict=True):
            assert mx.array_equal(one, all_[row])
