"""`stageline up`: check the model, start the workers, serve HTTP until told to stop."""

import asyncio
import contextlib
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import click
import uvicorn
from rich.console import Console
from starlette.applications import Starlette

from coordinator import config
from coordinator.api.app import create_app
from coordinator.cluster import Cluster
from coordinator.commands.options import setting
from coordinator.config import Settings
from coordinator.demo import NAME as DEMO_NAME
from coordinator.demo import demo_model
from coordinator.pipeline import Limits, Pipeline
from coordinator.progress import loading_progress
from coordinator.served import ServedModel, load_served_model
from coordinator.split import split
from worker.errors import ConfigError
from worker.hub import describe, pinned
from worker.protocol import MAX_TENSOR_BYTES
from worker.quantization import parse_quantization
from worker.spec import ModelSpec

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
FINISH_SECONDS = 1
MAX_CONNECTIONS = 1000
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
    with _bound(settings) as listener:
        model, cluster, limits = _prepare(settings)
        asyncio.run(_serve(settings, model, cluster, limits, listener))


def _leave_at_a_signal() -> None:
    """Until `_serve` has its own way to stop: an exception in the main thread, which ends what it runs in order.

    A signal that is ignored on entry, as SIGHUP under nohup, stays ignored. A second one ends the process at once.
    """

    def leave(*_: object) -> None:
        for number in heard:
            signal.signal(number, signal.SIG_DFL)
        sys.exit(0)

    heard = _heard_signals()
    for number in heard:
        signal.signal(number, leave)


def _heard_signals() -> list[signal.Signals]:
    return [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


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
    layers = split(costs(spec), settings.stages)
    if checkpoint.mtp_tensors:
        log.info("%s: %d tensors for multi-token prediction are left out", name, checkpoint.mtp_tensors)
    model = load_served_model(checkpoint.directory, name=name, spec=spec, context=context)
    cluster = Cluster(
        model=name,
        source=pinned(source, checkpoint),
        layers=layers,
        pattern=spec.pattern,
        quantize=settings.quantize,
    )
    limits = Limits(
        prefill_chunk=settings.prefill_chunk,
        silence=settings.heartbeat_timeout,
        loading=settings.loading_timeout,
        backoff=settings.restart_delay,
        backoff_limit=settings.restart_delay_limit,
    )
    return model, cluster, limits


def costs(spec: ModelSpec) -> list[int]:
    """Parameters read per token by each layer; the head counts to the last one."""
    each = [spec.layer_cost(index) for index in range(len(spec.layers))]
    each[-1] += spec.head_cost
    return each


def _name(source: str) -> str:
    """The last part of a directory or a hub id, without a revision."""
    return Path(source).expanduser().resolve().name if os.path.exists(source) else source.split("@")[0].split("/")[-1]


@contextlib.contextmanager
def _bound(settings: Settings) -> Generator[socket.socket]:
    """The listening socket; bound first, so that a taken port is found before anything is loaded."""
    host = settings.host.strip("[]")
    try:
        family = socket.getaddrinfo(host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, settings.port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {settings.port}: {error.strerror}; choose another with --port, "
            "or --port 0 for any free one",
            param="port",
        ) from error
    with listener:
        yield listener


async def _serve(
    settings: Settings, model: ServedModel, cluster: Cluster, limits: Limits, listener: socket.socket
) -> None:
    stopped = _signalled()
    pipeline = Pipeline(cluster, limits=limits)
    app = create_app(
        model=model,
        pipeline=pipeline,
        api_key=settings.api_key,
        local_only=settings.api_key is None and not settings.insecure,
    )
    async with _http(app, listener), pipeline:
        address = listener.getsockname()
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        ready = asyncio.ensure_future(_until_ready(pipeline))
        await asyncio.wait((ready, stopped, pipeline.fatal), return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            ready.result()
            _announce(f"ready http://{host}:{address[1]}")
        ready.cancel()
        await asyncio.wait((stopped, pipeline.fatal), return_when=asyncio.FIRST_COMPLETED)
    if pipeline.fatal.done():
        raise pipeline.fatal.result()


def _announce(line: str) -> None:
    """Prints the line. That nobody reads it is no reason to stop; any other failure to write it raises OSError."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        log.warning("nobody reads standard output: %s", line)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the rest goes nowhere, at exit too


def _signalled() -> "asyncio.Future[None]":
    """Done at the first signal to stop."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[None] = loop.create_future()
    for number in _heard_signals():
        loop.add_signal_handler(number, lambda: stopped.done() or stopped.set_result(None))
    return stopped


async def _until_ready(pipeline: Pipeline) -> None:
    with loading_progress(_Console(stderr=True)) as show:
        while True:
            with contextlib.suppress(OSError):  # nobody reads it, or its disk is full
                show(pipeline.view())
            if pipeline.problem() is None:
                return
            await pipeline.changed()


class _Console(Console):
    """Rich's console without its way to end the process when the reader of the progress is gone."""

    def on_broken_pipe(self) -> None:
        self.quiet = True


class _Server(uvicorn.Server):
    """Uvicorn without its signal handlers: stopping has an order, which `_serve` keeps."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def _http(app: Starlette, listener: socket.socket) -> AsyncGenerator[None]:
    """Serve `app` on the socket while the context lasts."""
    server = _Server(
        uvicorn.Config(
            app,
            log_config=None,  # its lines go to our log
            log_level="warning",
            lifespan="off",
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=FINISH_SECONDS,
        )
    )
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
