"""`stageline bench`: measure on this machine, with what we compare ourselves to in the same run."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec

import click
import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from coordinator.commands.bench_kernels import check_format, kernels
from coordinator.commands.bench_serve import serve
from coordinator.commands.running import START_SECONDS, failure, running
from coordinator.demo import made_model
from coordinator.server_events import server_events
from worker.errors import ClusterError, ConfigError
from worker.presets import preset as shapes_of

PROMPT_TOKENS = 64


class Alone(msgspec.Struct, frozen=True):
    """What `python -m worker.bench` prints; what it does not know is None."""

    tokens_per_second: float
    active_bytes: int | None = None
    peak_bytes: int | None = None
    fused_layers: int | None = None
    unfused: dict[str, int] = {}
    launches: int | None = None


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One way to run the model: tokens per second of every round, and what the last one said of itself."""

    name: str
    tokens_per_second: list[float]
    last: Alone

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.tokens_per_second)


@click.group()
def bench() -> None:
    """Measure, against mlx-lm in the same run."""


bench.add_command(kernels)
bench.add_command(serve)


@bench.command()
@click.argument("model", required=False)
@click.option("--preset", help="Random weights in memory in the shapes of `nano` or `super`, instead of a MODEL.")
@click.option("--layers", help="Only so many of the preset's layers, or `all`.", default="all", show_default=True)
@click.option("--quantize", default="8:32", show_default=True, help="Packing of the preset's weights.")
@click.option("--tokens", type=click.IntRange(2), default=128, show_default=True, help="Generated tokens a round.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds; the median counts.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def decode(
    model: str | None, preset: str | None, layers: str, quantize: str, tokens: int, rounds: int, as_json: bool
) -> None:
    """Decode rate of MODEL, one sequence: the stage code alone, clusters of one and two stages over HTTP, mlx-lm.

    MODEL is a directory or a hub id; without one a random model is made whose step takes some 80 ms on two CPU cores.
    With --preset: the stage code with and without fused kernels, and mlx-lm, on the same random weights. Every round
    starts each way anew and by turns, so that only one holds the model at a time.
    """
    if preset is not None:
        if model is not None:
            raise ConfigError("give either a MODEL or --preset", param="preset")
        shapes_of(preset)
        check_format(quantize)
        if layers != "all" and not (layers.isdecimal() and int(layers) > 0):
            raise ConfigError(f"--layers {layers}: give a number from 1 on, or all", param="layers")
        _check_layers(preset, layers)
        source = f"{preset}, layers: {layers}, {quantize}"
        ways = _of_preset(["--preset", preset, "--quantize", quantize], layers, tokens)
    else:
        source = model or str(made_model("bench"))
        ways = _of_model(source, tokens)
    if find_spec("mlx_lm") is None:
        raise ConfigError("mlx-lm, which is measured too, is not installed here: `pip install mlx-lm==0.32.2`")
    measured: dict[str, list[Alone]] = {name: [] for name in ways}
    console = Console(stderr=True)
    for number in range(rounds):
        for name, measure in ways.items():
            measured[name].append(measure())
            rate = measured[name][-1].tokens_per_second
            console.print(f"round {number + 1}/{rounds}  {name}: {rate:.1f} tok/s", highlight=False)
    rows = [
        Row(name=name, tokens_per_second=[one.tokens_per_second for one in ones], last=ones[-1])
        for name, ones in measured.items()
    ]
    if as_json:
        print(json.dumps({"model": source, "tokens": tokens, "rows": [_plain(row, rows[0]) for row in rows]}))
    else:
        _show(rows)


def _check_layers(preset: str, layers: str) -> None:
    """mlx-lm runs no model without both a Mamba and an attention layer."""
    pattern: str = shapes_of(preset)["config"]["hybrid_override_pattern"]
    least = max(pattern.index(kind) for kind in "M*") + 1
    if layers != "all" and int(layers) < least:
        raise ConfigError(
            f"--layers {layers}: mlx-lm needs an attention layer, the first {least} layers have one", param="layers"
        )


def _of_model(model: str, tokens: int) -> dict[str, Callable[[], Alone]]:
    return {
        "stage code, one process": lambda: _alone("stage", [model], tokens),
        "cluster, 1 stage, HTTP": lambda: Alone(_cluster(model, 1, tokens)),
        "cluster, 2 stages, HTTP": lambda: Alone(_cluster(model, 2, tokens)),
        "mlx_lm.generate": lambda: _alone("mlx-lm", [model], tokens),
    }


def _of_preset(options: list[str], layers: str, tokens: int) -> dict[str, Callable[[], Alone]]:
    which = options if layers == "all" else [*options, "--layers", layers]
    return {
        "stage code, one process": lambda: _alone("stage", which, tokens),
        "the same without fused kernels": lambda: _alone("plain", which, tokens),
        "mlx_lm.generate": lambda: _alone("mlx-lm", which, tokens),
    }


def _plain(row: Row, base: Row) -> dict[str, object]:
    return {**msgspec.to_builtins(row), "median": row.median, "ratio": _ratio(row, base)}


def _ratio(row: Row, base: Row) -> float:
    """The median of the rounds' ratios: what the machine does meanwhile hits both sides of each."""
    pairs = zip(row.tokens_per_second, base.tokens_per_second, strict=True)
    return statistics.median(own / other for own, other in pairs)


def _show(rows: list[Row]) -> None:
    table = Table(title="decode, batch 1", title_justify="left")
    for column in ("", "tok/s", "ms/token", "lowest", "highest", "to the first row", "GiB", "launches"):
        table.add_column(column, justify="left" if not column else "right")
    for row in rows:
        values = (row.median, 1e3 / row.median, min(row.tokens_per_second), max(row.tokens_per_second))
        memory = "-" if row.last.active_bytes is None else f"{row.last.active_bytes / 2**30:.1f}"
        launches = "-" if row.last.launches is None else str(row.last.launches)
        numbers = (f"{value:.2f}" for value in values)
        table.add_row(row.name, *numbers, f"{_ratio(row, rows[0]):.3f}", memory, launches)
    console = Console()
    console.print(table)
    first = rows[0].last
    if first.fused_layers is not None:
        console.print(f"{first.fused_layers} layers decode through fused kernels", highlight=False)
        for reason, count in first.unfused.items():
            console.print(f"left to MLX: {count} layers, {reason}", highlight=False)


def _alone(engine: str, model: list[str], tokens: int) -> Alone:
    """In a process of its own, without sockets."""
    command = [sys.executable, "-P", "-m", "worker.bench", engine, *model]
    sizes = ["--prompt-tokens", str(PROMPT_TOKENS), "--tokens", str(tokens)]
    done = subprocess.run([*command, *sizes], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise failure(command, done.returncode, done.stderr)
    return msgspec.json.decode(done.stdout, type=Alone)


def _cluster(model: str, stages: int, tokens: int) -> float:
    """Through `stageline up` and HTTP, as a client sees it. The first answer warms up."""
    with running(model, stages) as url, httpx.Client(base_url=url, timeout=START_SECONDS) as client:
        _stream(client, tokens)
        stamps = _stream(client, tokens)
    return (tokens - 1) / (stamps[-1] - stamps[0])


def _stream(client: httpx.Client, tokens: int) -> list[float]:
    """When each token arrived."""
    prompt = [index * 37 % 256 for index in range(PROMPT_TOKENS)]
    body = {
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
    }
    stamps: list[float] = []
    with client.stream("POST", "/v1/completions", json=body) as response:
        for event in server_events(response.iter_bytes()):
            if event.event == "error" or response.status_code != 200:
                raise ClusterError(f"the cluster answered {event.data}")
            if event.data != "[DONE]":
                (choice,) = json.loads(event.data)["choices"]
                stamps += [time.perf_counter()] * len(choice["token_ids"] or ())
    if len(stamps) != tokens:
        raise ClusterError(f"the cluster sent {len(stamps)} tokens where {tokens} were asked for")
    return stamps
