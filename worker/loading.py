"""From an assignment to an engine: checkpoint, weights, stage, state."""

import os
import platform
from collections.abc import Callable

import mlx.core as mx

from worker.engine import Engine
from worker.hub import fetch_stage
from worker.protocol import PROTOCOL_VERSION, Assign, Hello
from worker.quantization import parse_quantization
from worker.stage import Stage
from worker.weights import load_stage


def hello() -> Hello:
    """What this process is and runs on."""
    return Hello(
        protocol=PROTOCOL_VERSION,
        pid=os.getpid(),
        host=platform.node(),
        backend="cpu" if mx.default_device() == mx.cpu else "metal" if mx.metal.is_available() else "cuda",
    )


def load_stage_of(assign: Assign, progress: Callable[[int, int], None]) -> Callable[[], Engine]:
    """Layers [first, end) of the assigned checkpoint in memory; returns what makes an engine without requests.

    `progress(loaded bytes, total bytes)` is called while it loads.

    Raises CheckpointError if the checkpoint cannot be served.
    """
    first, end = assign.first, assign.end
    checkpoint = fetch_stage(assign.model, first, end)
    spec = checkpoint.spec
    is_last = end == len(spec.layers)
    weights = load_stage(
        checkpoint,
        first,
        end,
        quantize=parse_quantization(assign.quantize) if assign.quantize else None,
        progress=progress,
    )
    stage = Stage(
        spec,
        first,
        end,
        weights.layers,
        embedding=weights.embedding,
        final_norm=weights.final_norm,
        head=weights.head,
    )
    return lambda: Engine(stage, hidden_size=spec.hidden_size, is_last=is_last)
