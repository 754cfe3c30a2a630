import io

import pytest
from rich.console import Console

from coordinator.progress import changes, loading_progress
from tests.coordinator.scripted import view

LOADING = {"state": "loading", "total_bytes": 2_000_000_000}


def shown(*views: object, terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, legacy_windows=False)
    with loading_progress(console) as show:
        for each in views:
            show(each)  # type: ignore[arg-type]
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_first_view_names_every_stage() -> None:
    assert changes(None, view("starting", loaded_bytes=0, **LOADING)) == [
        "stage 0 (layers 0 to 6, MEMEM*E): ready",
        "stage 1 (layers 7 to 12, MEMEM*): loading, 0 % of 2 GB",
    ]


@pytest.mark.parametrize(
    ("loaded", "lines"),
    [
        (499_999_999, []),
        (500_000_000, ["stage 1 (layers 7 to 12, MEMEM*): loading, 25 % of 2 GB"]),
        (2_000_000_000, ["stage 1 (layers 7 to 12, MEMEM*): loading, 100 % of 2 GB"]),
    ],
)
def test_a_line_for_each_quarter(loaded: int, lines: list[str]) -> None:
    before = view("starting", loaded_bytes=1, **LOADING)
    assert changes(before, view("starting", loaded_bytes=loaded, **LOADING)) == lines


def test_a_line_for_another_state_or_reason() -> None:
    lost = view("degraded", state="down", detail="the worker died (signal 9)")
    assert changes(view(), lost) == ["stage 1 (layers 7 to 12, MEMEM*): down: the worker died (signal 9)"]
    assert changes(lost, lost) == []
    assert changes(lost, view()) == ["stage 1 (layers 7 to 12, MEMEM*): ready"]


def test_plain_lines_without_a_terminal() -> None:
    text = shown(view("starting", state="starting"), view("starting", state="starting"), view(), terminal=False)
    assert text.splitlines() == [
        "stage 0 (layers 0 to 6, MEMEM*E): ready",
        "stage 1 (layers 7 to 12, MEMEM*): starting",
        "stage 1 (layers 7 to 12, MEMEM*): ready",
    ]


def test_one_bar_a_stage_on_a_terminal() -> None:
    text = shown(view("starting", loaded_bytes=1_000_000_000, **LOADING), view(), terminal=True)
    last = text.rsplit("stage 0", 1)[1]
    assert "21.0/21.0 GB" in last
    assert "stage 1" in last
    assert "ready" in last
