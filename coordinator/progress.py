"""Progress of loading, one bar a stage on a terminal, else one plain line for each step forward."""

from collections.abc import Callable, Generator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

from coordinator.size import size
from coordinator.view import ClusterView, StageView

Show = Callable[[ClusterView], None]
LINE_EVERY_PERCENT = 25


@contextmanager
def loading_progress(console: Console) -> Generator[Show]:
    """Gives a function to call with each new view of the cluster; on leaving, the bars stay as they are."""
    if console.is_terminal:
        with _bars(console) as show:
            yield show
    else:
        with _lines(console) as show:
            yield show


def changes(before: ClusterView | None, after: ClusterView) -> list[str]:
    """The lines that a log wants between two views: a stage in another state, or a quarter more of it loaded."""
    known = {stage.stage: _mark(stage) for stage in before.stages} if before else {}
    return [_line(stage) for stage in after.stages if known.get(stage.stage) != _mark(stage)]


def _mark(stage: StageView) -> tuple[str, int, str]:
    return stage.state, _percent(stage) // LINE_EVERY_PERCENT, stage.detail


def _percent(stage: StageView) -> int:
    if stage.state != "loading" or stage.total_bytes == 0:
        return 0
    return 100 * stage.loaded_bytes // stage.total_bytes


def _line(stage: StageView) -> str:
    first, end = stage.layers
    line = f"stage {stage.stage} (layers {first} to {end - 1}, {stage.pattern}): {stage.state}"
    if stage.state == "loading" and stage.total_bytes:
        line += f", {_percent(stage)} % of {size(stage.total_bytes)}"
    return f"{line}: {stage.detail}" if stage.detail else line


@contextmanager
def _lines(console: Console) -> Generator[Show]:
    before: ClusterView | None = None

    def show(view: ClusterView) -> None:
        nonlocal before
        for line in changes(before, view):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
        before = view

    yield show


@contextmanager
def _bars(console: Console) -> Generator[Show]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    tasks: dict[int, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def show(view: ClusterView) -> None:
            for stage in view.stages:
                if stage.stage not in tasks:
                    first, end = stage.layers
                    tasks[stage.stage] = progress.add_task(
                        f"stage {stage.stage}  layers {first}-{end - 1}", total=None, state=""
                    )
                progress.update(
                    tasks[stage.stage],
                    total=stage.total_bytes or None,
                    completed=stage.loaded_bytes,
                    state=f"{stage.state}: {stage.detail}" if stage.detail else stage.state,
                )

        yield show
