"""`stageline up`: check the model and the settings, then serve until told to stop."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import click

from coordinator import config
from coordinator.batches import MOST_MEMBERS
from coordinator.cluster import Cluster
from coordinator.commands.options import setting
from coordinator.config import Settings
from coordinator.demo import NAME as DEMO_NAME
from coordinator.demo import demo_model
from coordinator.identity import model_identity
from coordinator.listener import listen
from coordinator.pipeline import Limits
from coordinator.plan.planner import equal_stages
from coordinator.plan.sources import checkpoint_cost
from coordinator.scheduler import Bounds
from coordinator.served import ServedModel, load_served_model
from coordinator.serving import heard_signals, serve
from worker.errors import ConfigError
from worker.hub import describe, pinned
from worker.quantization import parse_quantization
from worker.wire import MAX_TENSOR_BYTES

WIDEST_ITEM = 4  # bytes of a float32 in a hidden state
MAX_DESCRIPTORS = 65536  # asked for; macOS gives 256 unless asked, which connections alone would use up

log = logging.getLogger("stageline.up")


@click.command()
@click.argument("model", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file, see configs/example.toml.")
@setting("stages")
@setting("host")
@setting("port")
@setting("api_key")
@setting("insecure")
@setting("model_name")
@setting("quantize")
@setting("context")
@setting("prefill_chunk")
@setting("snapshot_bytes")
@setting("snapshot_dir")
def up(file: Path | None, **flags: Any) -> None:
    """Start a cluster on this machine and serve MODEL over HTTP.

    MODEL is a directory or a hub id; without one the demo model is served. Prints `ready http://HOST:PORT` when ready.
    Ctrl-C stops everything; the exit status after a signal to stop is 0, whether it was ready yet or not.
    """
    _leave_at_a_signal()
    _raise_descriptor_limit()
    settings = config.settings(file, os.environ, flags)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with listen(settings.host, settings.port) as listener:
        model, cluster, limits = _prepare(settings)
        asyncio.run(serve(settings, model, cluster, limits, listener))


def _leave_at_a_signal() -> None:
    """Until `serve` has its own way to stop: an exception in the main thread, which ends what it runs in order.

    A signal that is ignored on entry, as SIGHUP under nohup, stays ignored. A second one ends the process at once.
    """

    def leave(*_: object) -> None:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)
        sys.exit(0)

    heard = heard_signals()
    for number in heard:
        signal.signal(number, leave)


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a system may have a lower limit than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prepare(settings: Settings) -> tuple[ServedModel, Cluster, Limits]:
    """Everything that can be wrong with the model or the settings is found here, before a worker starts."""
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
    layers = equal_stages(checkpoint_cost(checkpoint, quantize, name=name), settings.stages)
    if checkpoint.mtp_tensors:
        log.info("%s: %d tensors for multi-token prediction are left out", name, checkpoint.mtp_tensors)
    model = load_served_model(
        checkpoint.directory, name=name, spec=spec, context=context, answer_tokens=settings.answer_tokens
    )
    cluster = Cluster(
        model=name,
        source=pinned(source, checkpoint),
        layers=layers,
        pattern=spec.pattern,
        quantize=settings.quantize,
        snapshots=_snapshots(settings.snapshot_dir, model_identity(source, checkpoint, settings.quantize)),
    )
    limits = Limits(
        bounds=Bounds(
            max_running=settings.max_running or MOST_MEMBERS * settings.stages,
            max_waiting=settings.max_waiting,
            queue_timeout=settings.queue_timeout,
            request_timeout=settings.request_timeout,
        ),
        prefill_chunk=settings.prefill_chunk,
        decode_pause=settings.decode_pause,
        state_bytes=settings.state_bytes,
        snapshot_bytes=settings.snapshot_bytes,
        silence=settings.heartbeat_timeout,
        loading=settings.loading_timeout,
        backoff=settings.restart_delay,
        backoff_limit=settings.restart_delay_limit,
    )
    return model, cluster, limits


def _snapshots(directory: str | None, identity: str) -> str:
    """Where this model's snapshots are kept, empty if nowhere."""
    return str(Path(directory).expanduser().resolve() / identity) if directory else ""


def _name(source: str) -> str:
    """The last part of a directory or a hub id, without a revision."""
    return Path(source).expanduser().resolve().name if os.path.exists(source) else source.split("@")[0].split("/")[-1]
