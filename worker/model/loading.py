"""From an assignment to an engine: checkpoint, weights, stage, state."""

import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx

from worker.bandwidth import memory_bandwidth
from worker.capacity import memory_name, usable_bytes
from worker.checkpoint.hub import fetch_stage
from worker.checkpoint.model_hash import model_hash
from worker.checkpoint.quantization import parse_quantization
from worker.errors import CheckpointError, ConfigError
from worker.footprint import footprint
from worker.model.engine import Engine
from worker.model.snapshot_files import SnapshotFiles
from worker.model.snapshots import Snapshots
from worker.model.stage import Stage
from worker.model.weights import load_stage
from worker.protocol import PROTOCOL_VERSION, Assign, Hello
from worker.telemetry.facts import Facts


def hello(metrics: str, host: str) -> Hello:
    """What this process is and runs on, a `host` of the cluster; its metrics server listens at `metrics`."""
    return Hello(protocol=PROTOCOL_VERSION, pid=os.getpid(), host=host, backend=_backend(), metrics=metrics)


def _backend() -> str:
    return "cpu" if mx.default_device() == mx.cpu else "metal" if mx.metal.is_available() else "cuda"


def load_stage_of(
    assign: Assign, progress: Callable[[int, int], None], *, host: str = ""
) -> tuple[Callable[[], Engine], Facts]:
    """Layers [first, end) of the assigned checkpoint in memory; returns what makes an engine without requests.

    `host` is this machine's name in the cluster. `progress(loaded bytes, total bytes)` is called while it loads.

    Raises CheckpointError if the checkpoint cannot be served.
    """
    first, end = assign.first, assign.end
    checkpoint = fetch_stage(assign.model, first, end)
    if assign.model_hash and model_hash(assign.model) != assign.model_hash:
        raise CheckpointError(
            f"{checkpoint.directory}: another model than the one this cluster began with, its files were replaced: "
            "start the cluster again"
        )
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
    facts = Facts(
        first=first,
        end=end,
        pattern=stage.pattern,
        backend=_backend(),
        host=host,
        fused_layers=stage.fused_layers,
        fused_rows=stage.fused_rows,
        parameter_bytes=stage.nbytes,
        bandwidth=memory_bandwidth(),
        state=footprint(spec.layers[first:end], stage.dtype.size),
        memory=memory_name(),
        usable_bytes=usable_bytes(),
        read_bytes=stage.read_bytes,
    )
    snapshots = Snapshots(_snapshot_files(assign, str(stage.dtype).removeprefix("mlx.core.")))
    return lambda: Engine(stage, hidden_size=spec.hidden_size, is_last=is_last, snapshots=snapshots), facts


def _snapshot_files(assign: Assign, dtype: str) -> SnapshotFiles | None:
    """Where these layers' snapshots are kept: no other cut of the model can use them."""
    if not assign.snapshots:
        return None
    directory = Path(assign.snapshots) / f"layers-{assign.first}-{assign.end - 1}-{dtype}"
    try:
        return SnapshotFiles(directory)
    except OSError as error:
        raise ConfigError(
            f"snapshot_dir: cannot use {directory}: {error.strerror}; make it writable or name another",
            param="snapshot_dir",
        ) from error
