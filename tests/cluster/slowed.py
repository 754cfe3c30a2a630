"""Clusters whose stages sleep; see `slow/sitecustomize.py`."""

import json
import os
from pathlib import Path

import pytest

SHIM = Path(__file__).parent / "slow"


def slow_down(
    monkeypatch: pytest.MonkeyPatch,
    *,
    step: float,
    row: float = 0.0,
    stage: int | None = None,
    flag: Path | None = None,
) -> None:
    """In clusters that start from now on the `stage`, or every one, sleeps `step` + rows * `row` seconds before each
    step; with `flag` only while that file is there."""
    paths = [str(SHIM), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"step": step, "row": row, "stage": stage, "flag": flag and str(flag)}
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("STAGELINE_TEST_SLEEP", json.dumps(settings))
