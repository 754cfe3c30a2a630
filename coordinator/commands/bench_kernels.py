"""`stageline bench kernels`: each operation of a decode step, by its fused kernel and by MLX's own operations."""

import subprocess
import sys

import click
import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from worker.checkpoint.quantization import FLOAT_MODES, parse_quantization
from worker.errors import ClusterError, ConfigError
from worker.presets import preset as shapes_of


class Way(msgspec.Struct, frozen=True):
    """An operation done one way; `fraction` is of the measured read bandwidth, None where that was not measured."""

    seconds: float
    launches: int
    bytes_per_second: float
    fraction: float | None


class Row(msgspec.Struct, frozen=True):
    """One operation; without `fused` it has no kernel here, and `why` says why where that is its own fault."""

    name: str
    shape: str
    bytes: int
    stock: Way
    fused: Way | None = None
    ratio: float | None = None
    why: str | None = None


class Report(msgspec.Struct, frozen=True):
    """What `python -m worker.bench_kernels` prints; `names` are of all operations, also of those left out."""

    device: str
    backend: str
    why: str
    preset: str
    quantize: str
    batch: int
    read_bytes_per_second: float | None
    fallbacks: dict[str, int]
    rows: list[Row]
    names: list[str]


@click.command()
@click.option("--preset", default="super", show_default=True, help="Shapes: `nano`, `super`, `demo` or `bench`.")
@click.option("--quantize", default="8:32", show_default=True, help="Packing of the random weights.")
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Sequences that decode together.")
@click.option("--calls", type=click.IntRange(1), default=100, show_default=True, help="Calls in a row, on a GPU.")
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True, help="Rounds; the median counts.")
@click.option("--only", default="", help="Only operations whose name contains this, for example `experts`.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def kernels(preset: str, quantize: str, batch: int, calls: int, rounds: int, only: str, as_json: bool) -> None:
    """Time, bandwidth and ratio to MLX's own operations of everything that a decode step does.

    Also says which backend is live and why, this machine's read bandwidth, measured in the same run, and what no
    kernel takes. Where MLX has no GPU, only its own operations are timed.
    """
    shapes_of(preset)
    check_format(quantize)
    options = ["--preset", preset, "--quantize", quantize, "--batch", str(batch)]
    printed = _measured([*options, "--calls", str(calls), "--rounds", str(rounds), "--only", only])
    report = msgspec.json.decode(printed, type=Report)
    if not report.rows:
        raise ConfigError(
            f"--only {only!r}: no operation's name contains it; there are: {'; '.join(report.names)}", param="only"
        )
    if as_json:
        print(printed.decode().strip())
    else:
        _show(report, Console(width=None if sys.stdout.isatty() else 140))


def check_format(quantize: str) -> None:
    """Raises ConfigError for what no random weights are made in."""
    if parse_quantization(quantize).mode != "affine":
        raise ConfigError(
            f"--quantize {quantize}: random weights are measured in the formats BITS:GROUP, for example 8:32 or 4:64; "
            f"{', '.join(FLOAT_MODES)} have no kernel here and run by MLX's own operations",
            param="quantize",
        )


def _measured(options: list[str]) -> bytes:
    """What the worker's process prints; its progress and its last words go to stderr."""
    command = [sys.executable, "-P", "-m", "worker.bench_kernels", *options]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if done.returncode != 0:
        raise ClusterError(f"`{' '.join(command)}` ended with status {done.returncode}; what it said is above")
    return done.stdout


def _show(report: Report, console: Console) -> None:
    live = "no kernel is live" if report.backend == "reference" else f"kernels run as {report.backend}"
    console.print(f"{report.device}: {live}, {report.why}", highlight=False)
    if report.read_bytes_per_second is not None:
        console.print(f"read bandwidth {report.read_bytes_per_second / 1e9:.0f} GB/s, measured now", highlight=False)
    title = f"{report.preset}, {report.quantize}, batch {report.batch}"
    table = Table(title=title, title_justify="left", box=box.SIMPLE, padding=(0, 1, 0, 0))
    columns = ("operation", "shape", "launches", "us", "MB", "GB/s", "of read", "MLX: us", "launches", "ratio")
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number < 2 else "right", no_wrap=True)
    for row in report.rows:
        table.add_row(*_cells(row))
    console.print(table)
    for reason, count in report.fallbacks.items():
        console.print(f"left to MLX: {count} of {len(report.rows)} operations, {reason}", highlight=False)


def _cells(row: Row) -> list[str]:
    own = ["-"] * 4
    if row.fused is not None:
        fraction = "-" if row.fused.fraction is None else f"{row.fused.fraction:.0%}"
        speed = f"{row.fused.bytes_per_second / 1e9:.0f}"
        own = [str(row.fused.launches), f"{row.fused.seconds * 1e6:.1f}", speed, fraction]
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    stock = [f"{row.stock.seconds * 1e6:.1f}", str(row.stock.launches)]
    return [row.name, row.shape, *own[:2], f"{row.bytes / 1e6:.1f}", *own[2:], *stock, ratio]
