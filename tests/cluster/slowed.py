"""Clusters whose stages sleep; see `slow/sitecustomize.py`."""

import os
from pathlib import Path

import pytest

SHIM = Path(__file__).parent / "slow"


def slow_down(monkeypatch: pytest.MonkeyPatch, *, step: float, row: float = 0.0) -> None:
    """Every stage of the clusters that start from now on sleeps `step` + rows * `row` seconds before each step."""
    paths = [str(SHIM), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("STAGELINE_TEST_SLEEP", f"{step},{row}")
