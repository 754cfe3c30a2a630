"""Models of random weights in memory, made where MLX computes: for measuring shapes that nobody wants to download.

Packed words are hashes of their index, so that no dense matrix is ever made: Super at 8 bits fits where it is served.

Shapes: D in, N out, E experts.
"""

import math
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
from msgspec.structs import replace

from worker.checkpoint.config import read_spec
from worker.checkpoint.quantization import Quantization
from worker.checkpoint.tensors import PREFIXES, Part, embedding_part, head_parts, layer_parts
from worker.model.blocks import Weights
from worker.model.matrix import Matrix
from worker.model.stage import Stage
from worker.spec import ModelSpec

Made = Iterator[tuple[int | None, Part, Matrix | mx.array]]


def first_layers(config: dict[str, Any], layers: int | None) -> dict[str, Any]:
    """The config of the model's first layers (None: all), with its head."""
    pattern = config["hybrid_override_pattern"][:layers]
    return {**config, "hybrid_override_pattern": pattern, "num_hidden_layers": len(pattern)}


def random_parts(spec: ModelSpec, to: Quantization) -> Made:
    """All parts of the model, evaluated, with the index of their layer (None: embedding and head); bfloat16 scales."""
    prefix = PREFIXES[0]
    layers = [(index, part) for index in range(len(spec.layers)) for part in layer_parts(spec, index, prefix)]
    ends = [(None, part) for part in (embedding_part(spec, prefix), *head_parts(spec, prefix))]
    for number, (index, part) in enumerate([*layers, *ends]):
        yield index, part, random_part(part, to, number)


def random_part(part: Part, to: Quantization, seed: int) -> Matrix | mx.array:
    """One part, evaluated."""
    made = _matrix(part, to, seed) if part.kind in ("matrix", "experts") else _array(part, seed)
    mx.eval(made.arrays if isinstance(made, Matrix) else made)
    mx.clear_cache()
    return made


def random_stage(config: dict[str, Any], to: Quantization) -> Stage:
    """The whole model as one stage."""
    spec = replace(read_spec(config, "preset"), eos_token_ids=())
    layers: list[dict[str, mx.array | Matrix]] = [{} for _ in spec.layers]
    ends: dict[str, Any] = {}
    for index, part, made in random_parts(spec, to):
        (ends if index is None else layers[index])[part.key] = made
    weights: list[Weights] = list(layers)
    return Stage(spec, 0, len(layers), weights, **ends)


def _matrix(part: Part, to: Quantization, number: int) -> Matrix:
    """Weights with mean 0 and variance 1 / D."""
    *rows, columns = part.shape
    shape = (*rows, columns * to.bits // 32)
    words = _hashed(math.prod(shape), number).reshape(shape)
    top = 2**to.bits - 1
    step = math.sqrt(12 / columns) / top
    scales = mx.full((*rows, columns // to.group_size), step, mx.bfloat16)
    return Matrix(words, scales, scales * (-top / 2), to)


def _hashed(count: int, seed: int) -> mx.array:
    """Words that look random in every bit."""
    words = (mx.arange(count, dtype=mx.uint32) + (seed * 7919) % 2**31) * mx.array(2654435769, mx.uint32)
    words = (words ^ (words >> 15)) * mx.array(2246822519, mx.uint32)
    return words ^ (words >> 13)


def _array(part: Part, number: int) -> mx.array:
    key = mx.random.key(number)
    match part.key:
        case "A_log":
            return mx.log(mx.random.uniform(1, 16, part.shape, key=key))
        case "dt_bias":
            return mx.random.uniform(-6, -2, part.shape, key=key).astype(mx.bfloat16)
        case "correction_bias":
            return mx.random.normal(part.shape, key=key) * 0.01
        case "norm" | "gate_norm" | "final_norm" | "D":
            return mx.ones(part.shape, mx.bfloat16)
        case _:
            return (mx.random.normal(part.shape, key=key) / math.sqrt(part.shape[-1])).astype(mx.bfloat16)
