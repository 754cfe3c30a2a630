"""What is to be served, checked before any worker starts: the model, its cost, and where its state is kept."""

import logging
import os
from pathlib import Path

import msgspec

from coordinator.demo import NAME as DEMO_NAME
from coordinator.demo import demo_model
from coordinator.identity import model_identity
from coordinator.plan.cost import ModelCost
from coordinator.plan.sources import checkpoint_cost
from coordinator.served import ServedModel, load_served_model
from coordinator.settings import Settings
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import describe, pinned
from worker.checkpoint.model_hash import model_hash
from worker.checkpoint.quantization import parse_quantization
from worker.errors import ConfigError
from worker.links.wire import MAX_TENSOR_BYTES

WIDEST_ITEM = 4  # bytes of a float32 in a hidden state

log = logging.getLogger("stageline.up")


class Prepared(msgspec.Struct, frozen=True):
    """`source` is what workers load, and `model_hash` tells whether a directory still holds that; `snapshots` is the
    directory of theirs, "" for none."""

    served: ServedModel
    checkpoint: Checkpoint
    cost: ModelCost
    source: str
    model_hash: str
    snapshots: str


def prepare(settings: Settings) -> Prepared:
    """Reads all of the model but its weights. Raises CheckpointError or ConfigError for whatever cannot be served."""
    source = settings.model or str(demo_model())
    name = settings.model_name or (_name(source) if settings.model else DEMO_NAME)
    quantize = parse_quantization(settings.quantize) if settings.quantize else None
    checkpoint = describe(source, quantize)
    spec = checkpoint.spec
    context = settings.context or spec.context_length
    if context > spec.context_length:
        raise ConfigError(
            f"--context {context}: {name} was made for at most {spec.context_length} tokens", param="context"
        )
    if settings.prefill_chunk * spec.hidden_size * WIDEST_ITEM > MAX_TENSOR_BYTES:
        most = MAX_TENSOR_BYTES // (spec.hidden_size * WIDEST_ITEM)
        raise ConfigError(
            f"--prefill-chunk {settings.prefill_chunk}: at most {most} tokens of {name} fit into one message",
            param="prefill_chunk",
        )
    if checkpoint.mtp_tensors:
        log.info("%s: %d tensors for multi-token prediction are left out", name, checkpoint.mtp_tensors)
    where = pinned(source, checkpoint)
    return Prepared(
        served=load_served_model(
            checkpoint.directory, name=name, spec=spec, context=context, answer_tokens=settings.answer_tokens
        ),
        checkpoint=checkpoint,
        cost=checkpoint_cost(checkpoint, quantize, name=name),
        source=where,
        model_hash=model_hash(where) if os.path.isabs(where) else "",
        snapshots=_snapshots(settings, model_identity(source, checkpoint, settings.quantize)),
    )


def _snapshots(settings: Settings, identity: str) -> str:
    """Where this model's snapshots are kept: on other hosts the same path as here, and ~ is the home there."""
    directory = settings.snapshot_dir
    if not directory:
        return ""
    if settings.hosts is None:
        return str(Path(directory).expanduser().resolve() / identity)
    if not directory.startswith(("/", "~")):
        raise ConfigError(
            f"--snapshot-dir {directory}: on several hosts it must be an absolute path, or begin with ~",
            param="snapshot_dir",
        )
    return f"{directory}/{identity}"


def _name(source: str) -> str:
    """The last part of a directory or a hub id, without a revision."""
    return Path(source).expanduser().resolve().name if os.path.exists(source) else source.split("@")[0].split("/")[-1]
