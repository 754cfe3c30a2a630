"""Decode speed in one process without sockets: `python -m worker.bench stage|mlx-lm MODEL` prints one JSON object.

`stage` is the engine that a worker runs, on all layers; `mlx-lm` is mlx-lm's own generation loop. Both get the same
prompt, choose greedily and keep one step in flight.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import mlx.core as mx

from worker.hub import describe
from worker.loading import load_stage_of
from worker.protocol import Assign, Open, Sampling, Segment, Tokens

REQUEST = 1
BATCH = 0


@click.command()
@click.argument("engine", type=click.Choice(["stage", "mlx-lm"]))
@click.argument("model")
@click.option("--prompt-tokens", type=click.IntRange(1), default=64, show_default=True)
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True)
def main(engine: str, model: str, prompt_tokens: int, tokens: int) -> None:
    """Generate TOKENS tokens twice, and report the second time's rate from the first token on."""
    checkpoint = describe(model)
    prompt = [index * 37 % min(checkpoint.spec.vocab_size, 256) for index in range(prompt_tokens)]
    generate = _stage(model, len(checkpoint.spec.layers)) if engine == "stage" else _mlx_lm(checkpoint.directory)
    list(generate(prompt, tokens))
    began = time.perf_counter()
    stamps = [time.perf_counter() for _ in generate(prompt, tokens)]
    seconds = (stamps[-1] - stamps[0]) / (tokens - 1)
    result = {"tokens_per_second": 1 / seconds, "first_token_seconds": stamps[0] - began}
    json.dump(result, sys.stdout)


def _stage(model: str, layers: int) -> Callable[[list[int], int], Iterator[int]]:
    assign = Assign(stage=0, stages=1, model=model, first=0, end=layers, quantize=None)
    engine = load_stage_of(assign, lambda loaded, total: None)()

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        limit = len(prompt) + count
        engine.open(Open(epoch=0, request=REQUEST, sampling=Sampling(temperature=0), stop_tokens=(), limit=limit))
        flying = [engine.start_tokens(BATCH, (Segment(REQUEST, 0, len(prompt), True),), prompt)]
        for position in range(len(prompt), limit):
            if position + 1 < limit:
                flying.append(engine.start_tokens(BATCH, (Segment(REQUEST, position, 1, True),), None))
            output = engine.finish(flying.pop(0), epoch=0)
            assert isinstance(output, Tokens)
            yield output.tokens[0].token
        engine.close(REQUEST)

    return generate


def _mlx_lm(directory: Path) -> Callable[[list[int], int], Iterator[int]]:
    try:
        from mlx_lm.generate import generate_step
        from mlx_lm.utils import load_model
    except ImportError as error:
        raise click.ClickException("mlx-lm is not installed here: pip install mlx-lm") from error
    model, _ = load_model(directory)

    def generate(prompt: list[int], count: int) -> Iterator[int]:
        return (int(token) for token, _ in generate_step(mx.array(prompt), model, max_tokens=count))

    return generate


if __name__ == "__main__":
    main()
