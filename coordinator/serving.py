"""A cluster that is started, served over HTTP until somebody tells it to stop, and ended in order."""

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import AsyncGenerator, Generator

import uvicorn
from rich.console import Console
from starlette.types import ASGIApp

from coordinator.api.app import create_app
from coordinator.cluster import Cluster
from coordinator.connection import Connection
from coordinator.limits import limits_of
from coordinator.pipeline import Pipeline
from coordinator.progress import loading_progress
from coordinator.served import ServedModel
from coordinator.settings import Settings
from coordinator.signals import heard_signals
from coordinator.site import Site
from coordinator.telemetry.observer import Observer
from coordinator.telemetry.trace import Anchor

FINISH_SECONDS = 1
MAX_CONNECTIONS = 1000

log = logging.getLogger("stageline.up")


async def serve(settings: Settings, model: ServedModel, cluster: Cluster, site: Site, listener: socket.socket) -> None:
    """Prints `ready http://HOST:PORT` when it is; returns after a signal to stop. Raises what made the cluster fail."""
    stopped = _signalled()
    observer = Observer(Anchor(time.time(), time.monotonic()))
    pipeline = Pipeline(cluster, site, limits=limits_of(settings, cluster.stages), observer=observer)
    app = create_app(
        model=model,
        pipeline=pipeline,
        observer=observer,
        api_key=settings.api_key,
        local_only=settings.api_key is None and not settings.insecure,
    )
    async with served_over(listener, app), pipeline:
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
    for number in heard_signals():
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
    """Uvicorn without its signal handlers: stopping has an order, which `serve` keeps."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


@contextlib.asynccontextmanager
async def served_over(listener: socket.socket, app: ASGIApp) -> AsyncGenerator[None]:
    """Serves `app` on the listening socket, over HTTP, while the context lasts."""
    server = _Server(
        uvicorn.Config(
            app,
            http=Connection,
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
