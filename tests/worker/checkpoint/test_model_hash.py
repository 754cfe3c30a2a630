"""When two hosts have the same model."""

import json
import shutil
from pathlib import Path

import huggingface_hub
import mlx.core as mx
import pytest

from tests.checkpoints import BASE, make
from worker.checkpoint.model_hash import BLOCK_BYTES, BLOCKS, model_hash
from worker.errors import CheckpointError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    made.mkdir()
    make(made, BASE, dtype=mx.float32, quantize=None)
    return made


@pytest.fixture
def copy(directory: Path) -> Path:
    return Path(shutil.copytree(directory, directory.with_name("copy")))


def test_copies_are_equal_whatever_is_beside_them(directory: Path, copy: Path) -> None:
    (copy / "README.md").write_text("something else")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(dict(sorted(config.items())), indent=7))
    assert model_hash(str(directory)) == model_hash(str(copy))


def test_another_configuration_is_another_model(directory: Path, copy: Path) -> None:
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"layer_norm_epsilon": 1e-6}))
    assert model_hash(str(directory)) != model_hash(str(copy))


@pytest.mark.parametrize("place", [0.25, 0.5, 0.75, 1.0])
def test_a_byte_of_a_small_file_is_seen(directory: Path, copy: Path, place: float) -> None:
    weights = next(copy.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    assert len(content) <= BLOCKS * BLOCK_BYTES  # all of it is read
    content[int((len(content) - 1) * place)] ^= 1
    weights.write_bytes(content)
    assert model_hash(str(directory)) != model_hash(str(copy))


def test_other_weights_are_seen_in_a_large_file(tmp_path: Path) -> None:
    """Larger than what is read of it; same shapes, other numbers."""
    hashes = set()
    for name, factor in (("one", 1.0), ("two", 1.001)):
        made = tmp_path / name
        made.mkdir()
        make(made, {**BASE, "vocab_size": 16384}, dtype=mx.float32, quantize=None)
        (weights,) = made.glob("*.safetensors")
        assert weights.stat().st_size > 2 * BLOCKS * BLOCK_BYTES
        tensors = mx.load(str(weights))
        mx.save_safetensors(str(weights), {key: value * factor for key, value in tensors.items()}, {"format": "mlx"})
        hashes.add(model_hash(str(made)))
    assert len(hashes) == 2


def test_a_model_of_the_hub_is_its_commit(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(commit: str, weights: Path) -> str:
        snapshot = directory.with_name(commit)
        if not snapshot.exists():
            shutil.copytree(weights, snapshot)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
        return model_hash("owner/name")

    first = fetched("a" * 40, directory)
    assert fetched("a" * 40, directory) == first
    assert fetched("b" * 40, directory) != first


def test_a_model_that_is_not_here(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        model_hash(str(tmp_path / "none"))


def test_a_file_that_is_cut_off(copy: Path) -> None:
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=weights.name):
        model_hash(str(copy))
