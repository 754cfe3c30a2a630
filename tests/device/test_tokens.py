"""256 decode steps at Super's layer shapes: the fused kernels against plain MLX and against fp32 activations.

A random model's experts have nothing in common, so where two of them nearly tie for the last place, rounding decides,
and the layer's output moves by a third: 147 of 256 tokens differed on an H200. So the steps are compared twice: with a
router whose correction tells the experts apart, where only rounding is left, and as the weights fall, against fp32.
"""

import mlx.core as mx
import pytest

from kernels import backend
from worker.checkpoint.config import read_spec
from worker.checkpoint.quantization import parse_quantization
from worker.model.matrix import Matrix
from worker.model.random_model import random_parts
from worker.model.stage import Stage
from worker.presets import preset

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.metal,
    pytest.mark.skipif(not backend.current().fused, reason="MLX has no GPU here"),
    pytest.mark.timeout(300),  # every kernel is compiled on its first use
]
PATTERN = "MEM*E"
STEPS = 256
ULP = 2**-7  # of a bfloat16, relative, at most


def config():
    return {**preset("super")["config"], "hybrid_override_pattern": PATTERN, "num_hidden_layers": len(PATTERN)}


def weights(quantize, decisive=False):
    spec = read_spec(config(), "preset")
    layers, ends = [{} for _ in spec.layers], {}
    for index, part, made in random_parts(spec, parse_quantization(quantize)):
        (ends if index is None else layers[index])[part.key] = made
    for index, layer in enumerate(layers if decisive else ()):
        if "correction_bias" in layer:  # scores lie between 0 and 1: no two experts can come close
            places = mx.random.permutation(layer["correction_bias"].size, key=mx.random.key(index))
            layer["correction_bias"] = 2.0 * places.astype(mx.float32)
    return spec, layers, ends


def wide(made):
    """With fp32 scales; products of the same integers."""
    if isinstance(made, mx.array):
        return made.astype(mx.float32)
    scales, biases = made.scales.astype(mx.float32), made.biases.astype(mx.float32)
    return Matrix(made.weight, scales, biases, made.quantization)


def decode(stage, dialect, tokens=None, steps=STEPS):
    """Logits [steps, V] fp32, after each of the forced `tokens` or of those it chooses itself."""
    state, rows, token = stage.new_state(), [], 1
    state.open(0)
    with backend.using(dialect):
        for step in range(steps):
            token = token if tokens is None else tokens[step]
            logits = stage(mx.array([token]), [(0, 1)], state, [0])[0].astype(mx.float32)
            mx.eval(logits, *state.pending())
            rows.append(logits)
            token = mx.argmax(logits).item()
    return mx.stack(rows)


def distance(got, want):
    """Of each step, relative."""
    return mx.linalg.norm(got - want, axis=-1) / mx.linalg.norm(want, axis=-1)


@pytest.mark.parametrize("quantize", ["8:32", "4:64"])
def test_greedy_tokens_equal_plain_ones(quantize):
    spec, layers, ends = weights(quantize, decisive=True)
    stage = Stage(spec, 0, len(layers), layers, **ends)
    assert stage.fused_layers == len(PATTERN), stage.unfused
    plain = decode(stage, "reference")
    chosen = mx.argmax(plain, axis=-1)
    fused = decode(stage, backend.current().dialect, [1, *chosen.tolist()])
    assert distance(fused, plain).max() < 0.05
    # logits are bfloat16, so the two largest of 131072 are often equal: where another one is chosen, both lie within
    # the last place of the largest, and within what the two ways differ by
    other = mx.take_along_axis(plain, mx.argmax(fused, axis=-1)[:, None], axis=-1)[:, 0]
    margin, noise = plain.max(axis=-1) - other, mx.sqrt(mx.square(fused - plain).mean(axis=-1))
    assert mx.all(margin <= ULP * plain.max(axis=-1) + 3 * noise)
    assert (margin > 0).sum() < STEPS // 8


@pytest.mark.parametrize("quantize", ["8:32"])
def test_fused_is_as_close_to_fp32_as_plain(quantize):
    spec, layers, ends = weights(quantize)
    stage = Stage(spec, 0, len(layers), layers, **ends)
    wide_layers = [{key: wide(made) for key, made in layer.items()} for layer in layers]
    exact = Stage(spec, 0, len(layers), wide_layers, **{key: wide(made) for key, made in ends.items()})
    want = decode(exact, "reference", steps=64)
    tokens = [1, *mx.argmax(want, axis=-1).tolist()]
    fused, plain = (decode(stage, d, tokens, steps=64) for d in (backend.current().dialect, "reference"))
    assert distance(fused, want).mean() < 1.1 * distance(plain, want).mean()
