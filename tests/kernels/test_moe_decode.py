"""The mixture-of-experts launches against fp32."""

from dataclasses import replace

import mlx.core as mx
import pytest

from kernels.matvec.launch import Output, project
from kernels.moe import slices
from kernels.moe.decode import MoEWeights, Routing, choose, choose_beside, experts_down, experts_up, moe_decode, why_not
from tests.kernels import layers
from tests.kernels.layers import Maker, Packed, error, times, wide
from tests.kernels.layers import wide as wide_of

# chosen experts, hidden, latent and routed vectors each round to bf16: 4 roundings of 2^-9 on the way
LAYER = 1e-2


@pytest.mark.parametrize(
    ("experts", "top"), [(1, 1), (8, 8), (40, 36), (512, 22), (512, 1), (33, 6)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("normalize", [True, False], ids=["normalized", "raw"])
def test_choice(dialect: str, experts: int, top: int, normalize: bool) -> None:
    """Ties, and there are many among 12 values, go to the lower index."""
    make = Maker(experts + top)
    logits = mx.round(make.normal(3, experts, dtype=mx.float32) * 2) / 2
    correction = mx.round(make.normal(experts, dtype=mx.float32)) / 4
    routing = Routing(experts, top, normalize, 2.5)
    indices, weights = choose(logits, correction, routing)
    scores = mx.sigmoid(logits)
    want = mx.argsort(-(scores + correction), axis=-1)[:, :top]
    assert indices[:, :top].tolist() == want.tolist()
    raw = mx.take_along_axis(scores, want, axis=-1) * 2.5
    assert mx.allclose(weights[:, :top], raw / scores_sum(raw, normalize), rtol=1e-6, atol=0)
    assert not mx.any(weights[:, top:])


def scores_sum(raw: mx.array, normalize: bool) -> mx.array:
    return raw.sum(-1, keepdims=True) / 2.5 if normalize else mx.array(1.0)


def test_choice_of_nan_stays_in_bounds(dialect: str) -> None:
    routing = Routing(16, 4, True, 1.0)
    indices, _ = choose(mx.full((1, 16), float("nan")), mx.zeros((16,)), routing)
    assert mx.all(indices < 16)


@pytest.mark.parametrize(
    ("tokens", "bits", "group", "top", "latent", "shared"),
    [
        (1, 8, 32, 3, True, True),
        (3, 4, 32, 12, False, True),
        (5, 6, 64, 6, True, True),
        (1, 5, 64, 1, True, False),
        (2, 16, 32, 4, False, False),
        (6, 8, 32, 3, True, True),
        (7, 4, 64, 3, False, True),
    ],
)
def test_layer(dialect: str, tokens: int, bits: int, group: int, top: int, latent: bool, shared: bool) -> None:
    make = Maker(bits)
    sizes = {"hidden": 192, "latent": 64, "experts": 12, "inner": 320, "shared": 192}
    layer, routing = make.moe(sizes, bits, group, latent, shared), Routing(12, top, True, 2.5)
    assert why_not(layer, routing) is None
    x = make.normal(tokens, 192)
    got = moe_decode(x, layer, routing)
    chosen = choice_of(x, layer, routing)
    assert error(wide(got) - wide(x), layers.moe(x, layer, routing, chosen)) < LAYER


def choice_of(x: mx.array, layer: MoEWeights, routing: Routing) -> mx.array:
    """The kernels' own choice, shown to be the best one but for what rounding x to bf16 can turn."""
    (logits,) = project(x, [Output(layer.router, dtype=mx.float32)], layer.gain)
    chosen = choose(logits, layer.correction, routing)[0][:, : routing.top]
    keys = layers.moe_keys(x, layer)[1]
    worst = mx.take_along_axis(keys, chosen, axis=-1).min(-1)
    assert mx.all(mx.sort(keys, axis=-1)[:, -routing.top] - worst < 5e-3)
    return chosen


def test_pieces_at_super_widths(dialect: str) -> None:
    """Latent 1024, intermediate 2688, the best of 3 experts twice: lanes idle on neither tail."""
    make = Maker(7)
    up, down = make.matrix(3, 64, 1024, bits=8), make.matrix(3, 24, 2688, bits=8)
    x, indices = make.normal(2, 1024), mx.array([[2, 0, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]], dtype=mx.uint32)
    weights = mx.array([[0.5, 1.5] + [0.0] * 6, [2.0, 0.25] + [0.0] * 6])
    hidden = experts_up(x, up, indices, 2)
    want = [[layers.relu2(times(x[t], up, e)) for e in indices[t, :2].tolist()] for t in range(2)]
    assert error(hidden, mx.array([[r.tolist() for r in row] for row in want])) < 8e-3
    inner = make.normal(2, 2, 2688)
    got = experts_down(inner, down, indices, weights)
    rows = [sum(weights[t, k] * times(inner[t, k], down, indices[t, k].item()) for k in range(2)) for t in range(2)]
    assert error(got, mx.stack(rows)) < 4e-3


@pytest.mark.parametrize(("bits", "group", "wide"), [(8, 32, 64), (4, 64, 192), (5, 32, 96)])
def test_experts_by_slices_equal_both_launches(dialect: str, bits: int, group: int, wide: int) -> None:
    """But for the order of fp32 sums."""
    make = Maker(wide)
    up, down = (make.matrix(3, *shape, bits=bits, group=group) for shape in ((256, wide), (wide, 256)))
    assert slices.why_not(up, down) is None
    x, indices = make.normal(2, wide), mx.array([[2, 0, 0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0]], dtype=mx.uint32)
    weights = mx.array([[0.5, 1.5] + [0.0] * 6, [2.0, 0.25] + [0.0] * 6])
    got = slices.experts_by_slices(x, up, down, indices, weights, 2)
    want = experts_down(experts_up(x, up, indices, 2), down, indices, weights)
    assert error(got, wide_of(want)) < 4e-3


def test_choice_beside_a_projection_equals_both_alone(dialect: str) -> None:
    make = Maker(8)
    logits, correction = make.normal(2, 64, dtype=mx.float32), mx.zeros((64,))
    x, gain, output = make.normal(2, 128), make.gain(128), Output(make.matrix(72, 128, bits=8), relu2=True)
    routing = Routing(64, 6, True, 1.0)
    together = choose_beside(logits, correction, routing, x, output, gain)
    apart = (*choose(logits, correction, routing), *project(x, [output], gain))
    assert all(mx.array_equal(a, b) for a, b in zip(together, apart, strict=True))


def test_a_token_alone_equals_itself_among_others(dialect: str) -> None:
    make = Maker(10)
    sizes = {"hidden": 128, "latent": 64, "experts": 8, "inner": 96, "shared": 64}
    layer, routing, x = make.moe(sizes, 8, 32, True, True), Routing(8, 3, True, 1.0), make.normal(4, 128)
    together = moe_decode(x, layer, routing)
    assert mx.array_equal(moe_decode(x[3:], layer, routing)[0], together[3])


def test_layers_left_to_the_reference() -> None:
    make = Maker(9)
    sizes = {"hidden": 64, "latent": 64, "experts": 4, "inner": 64, "shared": 64}
    layer = make.moe(sizes, 8, 32, True, True)
    assert "experts" in (why_not(layer, Routing(4096, 2, True, 1.0)) or "")
    odd = replace(layer, down=Packed(mx.zeros((4, 64, 64))))
    assert (why_not(odd, Routing(4, 2, True, 1.0)) or "").startswith("down:")
