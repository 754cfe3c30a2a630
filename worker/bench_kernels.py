"""Every operation of a decode step by its fused kernel and by MLX's own operations: `python -m worker.bench_kernels`.

Random weights in the shapes of a preset. Prints one JSON object; `stageline bench kernels` makes a table of it.
"""

import json
import sys
from collections import Counter
from typing import Any

import click

from worker.mlx_settings import set_defaults

set_defaults()

import mlx.core as mx  # noqa: E402 its settings come first

from kernels import backend  # noqa: E402
from kernels.bandwidth import read_bandwidth  # noqa: E402
from worker.cases import Case, cases  # noqa: E402
from worker.checkpoint.config import read_spec  # noqa: E402
from worker.checkpoint.quantization import parse_quantization  # noqa: E402
from worker.graph import operations  # noqa: E402
from worker.presets import preset  # noqa: E402
from worker.timing import Clock  # noqa: E402


@click.command()
@click.option("--preset", "preset_name", default="super", show_default=True)
@click.option("--quantize", default="8:32", show_default=True)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--calls", type=click.IntRange(1), default=100, show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--only", default="")
def main(preset_name: str, quantize: str, batch: int, calls: int, rounds: int, only: str) -> None:
    """Time the operations of a preset."""
    spec = read_spec(preset(preset_name)["config"], "preset")
    live = backend.current()
    bandwidth = read_bandwidth()
    clock = Clock(calls, rounds)
    rows: list[dict[str, Any]] = []
    names: list[str] = []
    fallbacks: Counter[str] = Counter()
    for case in cases(spec, parse_quantization(quantize), batch):
        names.append(case.name)
        if only not in case.name:
            continue
        if isinstance(case.fused, str):
            fallbacks[case.fused] += 1
        rows.append(_measured(case, clock, bandwidth))
        print(f"{case.name} {case.shape}", file=sys.stderr, flush=True)
    result = {
        "device": mx.device_info().get("device_name", "") if live.fused else "cpu",
        "backend": live.dialect,
        "why": live.why,
        "preset": preset_name,
        "quantize": quantize,
        "batch": batch,
        "read_bytes_per_second": bandwidth,
        "fallbacks": fallbacks,
        "rows": rows,
        "names": names,
    }
    json.dump(result, sys.stdout)


def _measured(case: Case, clock: Clock, bandwidth: float | None) -> dict[str, Any]:
    """One row: each way's seconds, launches and bandwidth, and how many times faster the kernels are."""
    row: dict[str, Any] = {"name": case.name, "shape": case.shape, "bytes": case.nbytes}
    ways = {"stock": case.stock}
    if isinstance(case.fused, str):
        row["why"] = case.fused
    elif bandwidth is not None:
        ways = {"fused": case.fused, **ways}
    for name, operation in ways.items():
        launches = operations(operation(0, case.x)).total()
        seconds = clock.seconds(operation, case.x)
        speed = case.nbytes / seconds
        fraction = None if bandwidth is None else speed / bandwidth
        row[name] = {"seconds": seconds, "launches": launches, "bytes_per_second": speed, "fraction": fraction}
    if "fused" in row:
        row["ratio"] = row["stock"]["seconds"] / row["fused"]["seconds"]
    return row


if __name__ == "__main__":
    main()
