"""`stageline status`: the stages of a running cluster, as a table or as JSON."""

import time

import click
import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from coordinator.client import Client
from coordinator.commands import options
from coordinator.size import size
from coordinator.view import ClusterView
from worker.errors import ClusterError

INTERVAL_SECONDS = 1.0
LINE_WIDTH = 160  # where there is no window to fit into


@click.command()
@click.option("--watch", is_flag=True, help="Go on showing it every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one line each time.")
@options.coordinator_address
def status(watch: bool, as_json: bool, url: str, api_key: str | None) -> None:
    """Show the stages of a running cluster."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, LINE_WIDTH)
    with Client(url, api_key) as client:
        if as_json:
            click.echo(msgspec.json.encode(client.cluster()))
            while watch:
                time.sleep(INTERVAL_SECONDS)
                click.echo(_json_now(client))
        elif watch and console.is_terminal:
            with Live(table(client.cluster()), console=console, auto_refresh=False) as live:
                while True:
                    time.sleep(INTERVAL_SECONDS)
                    live.update(_now(client), refresh=True)
        else:
            console.print(table(client.cluster()))
            while watch:
                time.sleep(INTERVAL_SECONDS)
                console.print(_now(client))


def _now(client: Client) -> RenderableType:
    """The cluster, or why it cannot be shown: it may be back in a moment."""
    try:
        return table(client.cluster())
    except ClusterError as error:
        return Text(error.message, style="red")


def _json_now(client: Client) -> bytes:
    """The same as JSON; a cluster that cannot be shown has its own state, and no stages."""
    try:
        return msgspec.json.encode(client.cluster())
    except ClusterError as error:
        return msgspec.json.encode({"state": "unreachable", "reason": error.message, "stages": []})


def table(view: ClusterView) -> RenderableType:
    """The cluster as a table, one row a stage, and below it why a stage is not ready; fits 80 columns on one host."""
    several_hosts = len({stage.host for stage in view.stages}) > 1
    rows = Table(title=escape(_title(view)), title_justify="left", box=SIMPLE_HEAD, padding=0, show_edge=False)
    rows.add_column("stage", justify="right", no_wrap=True)
    rows.add_column("layers", justify="right", no_wrap=True)
    rows.add_column("pattern", overflow="fold", min_width=7)
    if several_hosts:
        rows.add_column("host", overflow="fold", min_width=7)
    rows.add_column("state", no_wrap=True)
    for heading in ("busy", "wait", "transfer", "p50 ms", "p95 ms", "memory", "restarts"):
        rows.add_column(heading, justify="right", no_wrap=True)
    for stage in view.stages:
        first, end = stage.layers
        rows.add_row(
            str(stage.stage),
            f"{first}-{end - 1}",
            stage.pattern,
            *([escape(stage.host)] if several_hosts else []),
            stage.state,
            *map(_percent, (stage.busy, stage.wait, stage.transfer)),
            *map(_milliseconds, (stage.decode_p50, stage.decode_p95)),
            size(stage.memory_bytes),
            str(stage.restarts),
        )
    reasons = [Text(f"stage {stage.stage}: {stage.detail}") for stage in view.stages if stage.detail]
    return Group(rows, *reasons)


def _title(view: ClusterView) -> str:
    backends = "/".join(sorted({stage.backend for stage in view.stages if stage.backend}))
    where = f" on {backends}" if backends else ""
    queue = f"{view.running} running, {view.waiting} waiting, {view.tokens_per_second:.1f} tokens/s"
    return f"{view.model}{where}: {view.state}, {queue}, epoch {view.epoch}"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds else "-"
