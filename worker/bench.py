"""Decode speed in one process without sockets: `python -m worker.bench ENGINE [MODEL]` prints one JSON object a line.

ENGINE: `stage` is what a worker runs, on all layers; `plain` the same without fused kernels; `mlx-lm` mlx-lm's own
generation loop. All get the same prompt, choose greedily and keep one step in flight. MODEL is a checkpoint; with
`--preset` the weights are random and in memory instead.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import click

from worker.mlx_settings import set_defaults

set_defaults()

import mlx.core as mx  # noqa: E402 its settings come first

from kernels import backend  # noqa: E402
from worker.checkpoint.hub import describe  # noqa: E402
from worker.checkpoint.quantization import parse_quantization  # noqa: E402
from worker.errors import StagelineError  # noqa: E402
from worker.graph import operations  # noqa: E402
from worker.model.engine import Engine  # noqa: E402
from worker.model.loading import load_stage_of  # noqa: E402
from worker.model.random_model import first_layers, random_parts, random_stage  # noqa: E402
from worker.presets import preset  # noqa: E402
from worker.protocol import Assign, Open, Sampling, Segment, Tokens  # noqa: E402

Generate = Callable[[list[int], int], Iterator[int]]
BATCH = 0
CACHE_BYTES = 2 << 30  # what MLX may keep of freed buffers: a large model leaves little room


@click.command()
@click.argument("engine", type=click.Choice(["stage", "plain", "mlx-lm"]))
@click.argument("model", required=False)
@click.option("--preset", "preset_name", help="Shapes of the model: nano, super, demo or bench.")
@click.option("--layers", type=click.IntRange(1), help="Only the preset's first layers.")
@click.option("--quantize", default="8:32", show_default=True, help="Packing of the preset's weights.")
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Sequences that decode together; given several times, one line each.",
)
@click.option("--prompt-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True)
@click.option("--past", type=click.IntRange(0), default=0, help="Positions of zeros that attention sees besides.")
def main(
    engine: str,
    model: str | None,
    preset_name: str | None,
    layers: int | None,
    quantize: str,
    batches: tuple[int, ...],
    prompt_tokens: int,
    tokens: int,
    past: int,
) -> None:
    """Generate TOKENS tokens twice, and report the second time's rate from the first token on."""
    if (model is None) == (preset_name is None):
        raise click.UsageError("give either a MODEL or --preset")
    if engine == "mlx-lm" and (batches != (1,) or past):
        raise click.UsageError("mlx-lm is measured with one sequence, from its prompt on")
    mx.set_cache_limit(CACHE_BYTES)
    config = first_layers(preset(preset_name)["config"], layers) if preset_name else None
    prompt = [index * 37 % 256 for index in range(prompt_tokens)]
    with backend.using("reference") if engine == "plain" else nullcontext():
        if engine == "mlx-lm":
            ways = {1: _mlx_lm(model, config, quantize)}
            facts: dict[str, Any] = {}
        else:
            made = _checkpoint_engine(model) if model else _random_engine(config or {}, quantize)
            ways = {batch: _stage(made, batch, past) for batch in batches}
            facts = _facts(made)
        for batch, generate in ways.items():
            print(json.dumps({"batch": batch, **_measured(generate, batch, prompt, tokens), **facts}), flush=True)


def _measured(generate: Generate, batch: int, prompt: list[int], tokens: int) -> dict[str, float]:
    """Of the second time: seconds and memory."""
    list(generate(prompt, tokens))
    mx.reset_peak_memory()
    active, stamps, began = 0, [], time.perf_counter()
    for _ in generate(prompt, tokens):
        stamps.append(time.perf_counter())
        active = max(active, mx.get_active_memory())
    seconds = (stamps[-1] - stamps[0]) / (tokens - 1)
    return {
        "tokens_per_second": batch / seconds,
        "step_seconds": seconds,
        "first_token_seconds": stamps[0] - began,
        "active_bytes": active,
        "peak_bytes": mx.get_peak_memory(),
    }


def _facts(engine: Engine) -> dict[str, Any]:
    """How many layers have kernels, why others have none, and the operations of one sequence's step by its graph."""
    stage = engine._stage  # what nobody else needs to see
    facts = {"fused_layers": stage.fused_layers, "unfused": Counter(stage.unfused.values())}
    if not stage.fused_layers or not backend.current().fused:
        return facts  # without kernels a step is handed over in pieces, of which the last graph holds one
    state = stage.new_state()
    state.open(0)
    mx.eval(stage(mx.array([1]), [(0, 1)], state, [0]), *state.pending())
    logits = stage(mx.array([1]), [(0, 1)], state, [0])
    return {**facts, "launches": operations(logits, *state.pending()).total()}


def _checkpoint_engine(model: str) -> Engine:
    layers = len(describe(model).spec.layers)
    assign = Assign(stage=0, stages=1, model=model, first=0, end=layers, quantize=None)
    return load_stage_of(assign, lambda loaded, total: None)[0]()


def _random_engine(config: dict[str, Any], quantize: str) -> Engine:
    stage = random_stage(config, parse_quantization(quantize))
    return Engine(stage, hidden_size=config["hidden_size"], is_last=True)


def _lengthen(engine: Engine, past: int) -> None:
    """Every sequence attends to so many zeros besides: memory and attention as after a long prompt, without one."""
    for caches in engine._state._caches.values():
        for cache in caches:
            _, heads, _, size = cache.keys_1VSA.shape
            zeros = mx.zeros((1, heads, past, size), cache.keys_1VSA.dtype)
            cache.append(zeros, zeros)
            mx.eval(cache.keys_1VSA, cache.values_1VSA)


def _stage(engine: Engine, batch: int, past: int) -> Generate:
    def generate(prompt: list[int], count: int) -> Iterator[int]:
        """The first sequence's tokens; the others run beside it."""
        limit = len(prompt) + count
        members = range(batch)
        first: list[int] = []
        for request in members:
            engine.open(Open(epoch=0, request=request, sampling=Sampling(temperature=0), stop_tokens=(), limit=limit))
            pending = engine.start_tokens(None, (Segment(request, 0, len(prompt), True),), prompt)
            first.append(_tokens(engine, pending)[0])
        if past:
            _lengthen(engine, past)
        yield first[0]
        flying = [engine.start_tokens(BATCH, _segments(members, len(prompt)), first)]
        for position in range(len(prompt) + 1, limit):
            if position + 1 < limit:
                flying.append(engine.start_tokens(BATCH, _segments(members, position), None))
            yield _tokens(engine, flying.pop(0))[0]
        for request in members:
            engine.close(request)

    return generate


def _segments(members: range, position: int) -> tuple[Segment, ...]:
    return tuple(Segment(request, position, 1, True) for request in members)


def _tokens(engine: Engine, pending: Any) -> list[int]:
    output = engine.finish(pending, epoch=0)
    assert isinstance(output, Tokens)
    return [sampled.token for sampled in output.tokens]


def _mlx_lm(path: str | None, config: dict[str, Any] | None, quantize: str) -> Generate:
    try:
        from mlx_lm.generate import generate_step
        from mlx_lm.utils import load_model
    except ImportError as error:
        raise click.ClickException("mlx-lm is not installed here: pip install mlx-lm") from error
    model = load_model(describe(path).directory)[0] if path else _random_mlx_lm(config or {}, quantize)

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        return (int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=count))

    return generate


def _random_mlx_lm(config: dict[str, Any], quantize: str) -> Any:
    """mlx-lm's model with the same random weights as the stage."""
    import mlx.nn as nn
    from mlx_lm.models.nemotron_h import Model, ModelArgs

    from worker.checkpoint.config import read_spec

    to = parse_quantization(quantize)
    model = Model(ModelArgs.from_dict(config))
    nn.quantize(model, group_size=to.group_size, bits=to.bits, mode=to.mode)
    weights: list[tuple[str, mx.array]] = []
    for _, part, made in random_parts(read_spec(config, "preset"), to):
        if isinstance(made, mx.array):
            weights.append((part.path, made[..., None] if part.kind == "conv" else made))
        else:
            names = ("weight", "scales", "biases")
            weights += [(f"{part.path}.{name}", array) for name, array in zip(names, made.arrays, strict=True)]
    model.load_weights(weights)
    return model


if __name__ == "__main__":
    try:
        main()
    except StagelineError as error:
        click.echo(f"stageline: error: {error.message}", err=True)
        sys.exit(error.exit_status)
