"""What makes a model another one for the snapshots of an earlier run."""

import json
import os
from pathlib import Path

import mlx.core as mx
import pytest

from coordinator.identity import model_identity
from tests.checkpoints import BASE, make
from worker.checkpoint.checkpoint import Checkpoint


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    make(tmp_path, BASE, dtype=mx.float32, quantize=None)
    return tmp_path


def identity(directory: Path, quantize: str | None = None) -> str:
    return model_identity(str(directory), Checkpoint(directory), quantize)


def test_it_is_the_same_as_long_as_nothing_changes(directory: Path) -> None:
    assert identity(directory) == identity(directory)
    moved = directory.rename(directory.with_name("elsewhere"))
    assert identity(moved) == identity(moved.rename(directory))


def test_weights_configuration_and_quantisation_make_another_one(directory: Path) -> None:
    names = [identity(directory), identity(directory, "8:32")]
    weights = next(directory.glob("*.safetensors"))
    os.utime(weights, ns=(1, 1))
    names.append(identity(directory))
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-6}))
    names.append(identity(directory))
    assert len(set(names)) == 4
