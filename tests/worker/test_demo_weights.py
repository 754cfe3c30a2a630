import json
import subprocess
import sys
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.utils import load_model

from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import describe
from worker.demo import PRINTABLE, write_checkpoint
from worker.errors import ConfigError

PATTERNS = {"demo": "MEMEM*EMEMEM*E", "bench": 2 * "MEMEM*EMEMEM*E"}


def in_float32(directory: Path) -> Any:
    """mlx-lm's model; on a CPU narrower types are ten times slower."""
    model, _ = load_model(directory)
    model.set_dtype(mx.float32)
    return model


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("demo")
    write_checkpoint("demo", directory)
    return directory


@pytest.mark.parametrize("preset", PATTERNS)
def test_a_preset_is_a_checkpoint_in_the_layout_of_the_real_ones(preset: str, tmp_path: Path) -> None:
    write_checkpoint(preset, tmp_path)
    checkpoint = describe(str(tmp_path))
    assert checkpoint.spec.pattern == PATTERNS[preset]
    assert checkpoint.spec.eos_token_ids == (256, 258)
    load_model(tmp_path)
    parts = checkpoint.parts(0, len(checkpoint.spec.layers))
    formats = {str(checkpoint.packing(part)) for _, part in parts if part.scales}
    assert formats == {"8:32"}


def test_text_is_printable_ascii_whatever_the_state(demo: Path) -> None:
    tokens = mx.random.randint(0, 272, (4, 32), key=mx.random.key(7))
    logits = in_float32(demo)(tokens)
    odds = mx.softmax(logits, axis=-1)
    printable = odds[..., PRINTABLE.start : PRINTABLE.stop]
    assert (1 - printable.sum(axis=-1)).max().item() < 1e-5
    # neither one certain token nor noise: the state decides between many
    assert 0.05 < odds.max(axis=-1).mean().item() < 0.7
    assert len(set(logits.argmax(axis=-1).flatten().tolist())) > 40


def test_hidden_states_stay_in_range(demo: Path) -> None:
    model = in_float32(demo)
    hidden = model.backbone.embeddings(mx.array([list(range(32, 96))]))
    sizes = []
    for layer in model.layers:
        hidden = layer(hidden, mask="causal" if layer.block_type == "*" else None)
        sizes.append(mx.sqrt(mx.mean(mx.square(hidden))).item())
    assert 0.5 < min(sizes) < max(sizes) < 5


def test_the_command_writes_into_a_directory_that_exists(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    command = [sys.executable, "-P", "-m", "worker.demo", "demo", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert Checkpoint(tmp_path).config["quantization"] == {"group_size": 32, "bits": 8, "mode": "affine"}
    assert (tmp_path / "tokenizer.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "usage: python -m worker.demo PRESET DIR [--leave-with-parent]"),
        (["none", "."], "no preset 'none', there are bench, demo, nano, super, ultra"),
        (["nano", "."], "preset 'nano' is for `stageline bench decode --preset nano`, not for a checkpoint"),
        (["demo", "/dev/null/x"], "cannot write a checkpoint to /dev/null/x: Not a directory"),
    ],
)
def test_the_command_explains_a_mistake(arguments: list[str], message: str) -> None:
    command = [sys.executable, "-P", "-m", "worker.demo", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (2, "", message)


def test_the_index_names_every_tensor(demo: Path) -> None:
    index = json.loads((demo / "model.safetensors.index.json").read_text())
    checkpoint = Checkpoint(demo)
    checkpoint.shards.check()
    assert index["metadata"]["total_size"] == sum(checkpoint.shards.info(name).nbytes for name in index["weight_map"])


def test_no_such_preset() -> None:
    with pytest.raises(ConfigError, match="no preset 'none', there are bench, demo"):
        write_checkpoint("none", Path())


@pytest.mark.parametrize("preset", PATTERNS)
def test_presets_share_the_tokenizer(preset: str) -> None:
    settings = tomllib.loads((files("worker") / "presets" / f"{preset}.toml").read_text())
    config = settings["config"]
    assert (config["vocab_size"], config["bos_token_id"], config["pad_token_id"]) == (272, 257, 256)
