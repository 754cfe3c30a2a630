"""`stageline up`: check the model and the settings, then serve until told to stop."""

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
from coordinator.commands.options import setting
from coordinator.signals import heard_signals

MAX_DESCRIPTORS = 65536  # asked for; macOS gives 256 unless asked, which connections alone would use up


@click.command()
@click.argument("model", required=False)
@click.option("--config", "file", type=click.Path(path_type=Path), help="Settings file, see configs/example.toml.")
@setting("stages")
@setting("hosts")
@setting("launch")
@setting("python")
@setting("control")
@setting("keys")
@setting("lock")
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
    """Start a cluster and serve MODEL over HTTP.

    MODEL is a directory or a hub id; without one the demo model is served. The stages run on this machine, or on those
    of --hosts. Prints `ready http://HOST:PORT` when ready. Ctrl-C stops everything; the exit status after a signal to
    stop is 0, whether it was ready yet or not.
    """
    _leave_at_a_signal()
    _raise_descriptor_limit()
    settings = config.settings(file, os.environ, flags)
    config.check_host(settings)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    from coordinator.commands.up_cluster import serve_cluster  # takes a while, in which a signal may come

    serve_cluster(settings)


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
