"""The Mamba launches against fp32, position by position."""

import mlx.core as mx
import pytest

from kernels.mamba.decode import MambaWeights, Mixer, StepCut, mamba_decode, mamba_step, why_not
from tests.kernels import layers
from tests.kernels.layers import Maker, error, wide

INF = float("inf")


def start(make: Maker, batch: int, mixer: Mixer) -> tuple[mx.array, mx.array]:
    tail = make.normal(batch, mixer.taps - 1, mixer.conv)
    return tail, make.normal(batch, mixer.heads, mixer.channels, mixer.state, dtype=mx.float32)


@pytest.mark.parametrize(
    ("batch", "positions", "hidden", "mixer", "bits", "group", "conv_bias"),
    [
        (1, 1, 128, Mixer(8, 16, 32, 2, 4), 8, 32, True),
        (2, 3, 128, Mixer(4, 24, 96, 1, 4, (0.01, 0.05)), 4, 32, True),
        (1, 4, 64, Mixer(4, 64, 128, 4, 4), 5, 32, False),
        (7, 1, 64, Mixer(4, 24, 64, 1, 3, (0.0, INF)), 16, 32, True),
        (1, 8, 64, Mixer(2, 32, 64, 1, 2), 6, 64, True),
    ],
)
def test_layer(
    dialect: str, batch: int, positions: int, hidden: int, mixer: Mixer, bits: int, group: int, conv_bias: bool
) -> None:
    make = Maker(positions)
    layer = make.mamba(hidden, mixer, bits, group, conv_bias)
    x, (tail, state) = make.normal(batch, positions, hidden), start(make, batch, mixer)
    rows = x.reshape(batch * positions, hidden)
    got, tails, states = mamba_decode(rows, tail, state, layer, mixer, every=True)
    want, want_tails, want_states = layers.mamba(x, tail, state, layer, mixer)
    added = wide(got).reshape(x.shape) - wide(x)
    # the projection, the gated output and the sum with x round to bf16; the state stays fp32, its inputs are bf16
    assert error(added, want) < 1e-2
    assert error(tails, want_tails) < 4e-3
    assert error(states, want_states) < 4e-3
    last, last_tail, last_state = mamba_decode(rows, tail, state, layer, mixer)
    assert mx.array_equal(last, got)
    assert mx.array_equal(last_tail, tails[:, -1])
    assert mx.array_equal(last_state, states[:, -1])


@pytest.fixture
def step(dialect: str) -> tuple[MambaWeights, Mixer, mx.array, mx.array, mx.array]:
    mixer, make = Mixer(4, 16, 64, 2, 4), Maker(11)
    return make.mamba(64, mixer, 8, 32), mixer, make.normal(6, mixer.rows), *start(make, 2, mixer)


def test_positions_together_equal_one_by_one(step: tuple) -> None:
    """Bit for bit: speculative decoding takes back to any position."""
    layer, mixer, projected, tail, state = step
    gated, squares, tails, states = mamba_step(projected, tail, state, layer, mixer, every=True)
    for s in range(3):
        one = mamba_step(projected.reshape(2, 3, -1)[:, s], tail, state, layer, mixer)
        together = (gated.reshape(2, 3, -1)[:, s], squares.reshape(2, 3, 2, -1)[:, s], tails[:, s], states[:, s])
        assert all(mx.array_equal(a, b) for a, b in zip(one, together, strict=True)), s
        _, _, tail, state = one


@pytest.mark.parametrize("positions", range(1, 9))
def test_any_number_of_positions_equals_one_by_one(dialect: str, positions: int) -> None:
    """Bit for bit, state and tail after every position."""
    mixer, make = Mixer(2, 8, 32, 1, 4), Maker(positions)
    layer, projected = make.mamba(32, mixer, 16, 32), make.normal(positions, mixer.rows)
    tail, state = start(make, 1, mixer)
    gated, _, tails, states = mamba_step(projected, tail, state, layer, mixer, every=True)
    for s in range(positions):
        one, _, tail, state = mamba_step(projected[s : s + 1], tail, state, layer, mixer)
        assert mx.array_equal(gated[s : s + 1], one), s
        assert mx.array_equal(tails[:, s], tail), s
        assert mx.array_equal(states[:, s], state), s


def test_sequences_together_equal_each_alone(step: tuple) -> None:
    layer, mixer, projected, tail, state = step
    together = mamba_step(projected[:2], tail, state, layer, mixer)
    for b in range(2):
        alone = mamba_step(projected[b : b + 1], tail[b : b + 1], state[b : b + 1], layer, mixer)
        assert all(mx.array_equal(a[b : b + 1], c) for a, c in zip(together, alone, strict=True))


@pytest.mark.parametrize("cut", [StepCut(1, 8), StepCut(4, 4), StepCut(2, 16)], ids=str)
def test_state_is_the_same_in_every_cut(step: tuple, cut: StepCut) -> None:
    layer, mixer, projected, tail, state = step
    want, got = (mamba_step(projected, tail, state, layer, mixer, cut=c) for c in (None, cut))
    assert mx.array_equal(got[3], want[3])
    assert mx.array_equal(got[0], want[0])


def test_layers_left_to_the_reference() -> None:
    mixer = Mixer(2, 32, 48, 1, 4)
    assert "48" in (why_not(Maker(1).mamba(64, mixer, 8, 32), mixer) or "")
