import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from tests.checkpoints import BASE, CONFIGS, build, edit_config, edit_tensors, make, save_original
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import describe
from worker.checkpoint.quantization import Quantization
from worker.errors import CheckpointError, ConfigError

SMALL = {**BASE, "hybrid_override_pattern": "ME*-"}
LAYOUTS = {"nvidia": ("backbone.", False), "transformers": ("model.", True), "puzzle": ("model.", False)}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("quantize", [None, {"group_size": 32, "bits": 4}], ids=["dense", "packed"])
def test_what_mlx_lm_writes_is_accepted(name: str, quantize: dict[str, Any] | None, tmp_path: Path) -> None:
    checkpoint = describe(str(make(tmp_path, CONFIGS[name], quantize=quantize)))
    assert "".join(checkpoint.spec.pattern) == CONFIGS[name]["hybrid_override_pattern"]
    assert checkpoint.mtp_tensors == 0


@pytest.mark.parametrize("layout", LAYOUTS)
def test_original_layouts_are_accepted(layout: str, tmp_path: Path) -> None:
    prefix, stacked = LAYOUTS[layout]
    save_original(tmp_path, SMALL, build(SMALL), prefix=prefix, stacked=stacked)
    checkpoint = describe(str(tmp_path))
    assert (checkpoint.prefix, checkpoint.mtp_tensors) == (prefix, 1)


def test_generation_config_says_where_a_text_ends(tmp_path: Path) -> None:
    make(tmp_path, SMALL)
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [5, 7], "temperature": 0.6}')
    assert Checkpoint(tmp_path).spec.eos_token_ids == (5, 7)
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6}')
    assert Checkpoint(tmp_path).spec.eos_token_ids == (1, 2)


def test_files_of_a_stage(tmp_path: Path) -> None:
    save_original(tmp_path, SMALL, build(SMALL), files=40)
    checkpoint = Checkpoint(tmp_path)
    files = checkpoint.shards.files
    first, middle, last = (set(checkpoint.files_of(*stage)) for stage in ((0, 2), (2, 3), (3, 4)))
    assert first | middle | last == set(checkpoint.files_of(0, 4)) == set(files.values())
    assert middle == {file for name, file in files.items() if name.startswith("backbone.layers.2.")}
    assert files["backbone.embeddings.weight"] in first
    assert {files["backbone.norm_f.weight"], files["lm_head.weight"]} <= last


def test_quantising_a_quantised_checkpoint_is_refused(tmp_path: Path) -> None:
    make(tmp_path, SMALL, quantize={"group_size": 32, "bits": 8})
    with pytest.raises(ConfigError, match=r"--quantize 4:64: .* is quantised already \(tensor backbone\.embeddings"):
        describe(str(tmp_path), Quantization(4, 64))


def rewrite(directory: Path, name: str, array: mx.array | None) -> None:
    edit_tensors(directory, {name: array})


def write(directory: Path, name: str, content: str | bytes) -> None:
    (directory / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cut(directory: Path, count: int) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:count])


def header(content: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text)) + text + data


LAYER = "backbone.layers"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ONE_FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

# what happens to a good checkpoint of the pattern ME*-, and what is said about it
DENSE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (
        lambda d: (d / "config.json").unlink(),
        "{d}: no config.json, expected the directory of a checkpoint",
    ),
    "config is no JSON": (lambda d: write(d, "config.json", "{]"), "{d}/config.json: not JSON: "),
    "config is not UTF-8": (lambda d: write(d, "config.json", b'{"\xff'), "{d}/config.json: not JSON: "),
    "config is a list": (lambda d: write(d, "config.json", "[]"), "{d}/config.json: expected a JSON object"),
    "other model": (lambda d: edit_config(d, model_type="llama"), "{d}/config.json: model_type is 'llama', only"),
    "generation config is no JSON": (
        lambda d: write(d, "generation_config.json", "eos"),
        "{d}/generation_config.json: not JSON: ",
    ),
    "generation config is wrong": (
        lambda d: write(d, "generation_config.json", '{"eos_token_id": -1}'),
        "{d}/generation_config.json: eos_token_id is -1, expected",
    ),
    "no weights": (
        lambda d: [(d / name).unlink() for name in (WEIGHTS, INDEX)],
        "{d}: no model*.safetensors, and no other format can be read",
    ),
    "index without map": (lambda d: write(d, INDEX, "{}"), f"{{d}}/{INDEX}: weight_map is missing"),
    "empty index": (lambda d: write(d, INDEX, '{"weight_map": {}}'), "{d}: no model*.safetensors"),
    "index leaves the directory": (
        lambda d: write(d, INDEX, '{"weight_map": {"lm_head.weight": "../model.safetensors"}}'),
        f"{{d}}/{INDEX}: weight_map of lm_head.weight is '../model.safetensors', expected a file of the same",
    ),
    "index names a missing tensor": (
        lambda d: write(
            d,
            INDEX,
            json.dumps({"weight_map": {**json.loads((d / INDEX).read_text())["weight_map"], "mtp.norm": WEIGHTS}}),
        ),
        f"{{d}}/{WEIGHTS}: tensor mtp.norm is missing, {{d}}/{INDEX} says that it is here",
    ),
    "file missing": (lambda d: (d / WEIGHTS).unlink(), f"{{d}}/{WEIGHTS}: cannot be read: No such file"),
    "file empty": (lambda d: cut(d, 0), f"{{d}}/{WEIGHTS}: 0 bytes, no whole safetensors header; the download"),
    "file truncated in the header": (lambda d: cut(d, 100), f"{{d}}/{WEIGHTS}: 100 bytes, no whole safetensors header"),
    "file truncated in the data": (lambda d: cut(d, 9000), f"{{d}}/{WEIGHTS}: 9000 bytes, its header promises "),
    "file too long": (
        lambda d: write(d, WEIGHTS, (d / WEIGHTS).read_bytes() + b"\0"),
        f"{{d}}/{WEIGHTS}: {{size+1}} bytes, its header promises {{size}}; the download",
    ),
    "Git LFS pointer": (
        lambda d: write(d, WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        f"{{d}}/{WEIGHTS}: a Git LFS pointer, not the file itself: run `git lfs pull`",
    ),
    "header is no JSON": (
        lambda d: write(d, WEIGHTS, struct.pack("<Q", 4) + b"nope"),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (JSONDecodeError(",
    ),
    "header is a list": (
        lambda d: write(d, WEIGHTS, struct.pack("<Q", 2) + b"[]"),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (TypeError(",
    ),
    "header without a shape": (
        lambda d: write(d, WEIGHTS, header({"x": {"dtype": "F32", "data_offsets": [0, 0]}})),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (KeyError('shape'))",
    ),
    "header with text of another type": (
        lambda d: write(d, WEIGHTS, header({"__metadata__": {"a": 1}, "x": ONE_FLOAT}, bytes(4))),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (ValueError('__metadata__ holds something that is no text",
    ),
    "tensors overlap": (
        lambda d: write(d, WEIGHTS, header({"x": ONE_FLOAT, "y": ONE_FLOAT}, bytes(4))),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (ValueError('tensor y begins at 0, the one before it ends",
    ),
    "a gap between tensors": (
        lambda d: write(d, WEIGHTS, header({"x": ONE_FLOAT, "y": {**ONE_FLOAT, "data_offsets": [5, 9]}}, bytes(9))),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (ValueError('tensor y begins at 5, the one before it ends",
    ),
    "header contradicts itself": (
        lambda d: write(d, WEIGHTS, header({"x": {**ONE_FLOAT, "shape": [2]}}, bytes(4))),
        f"{{d}}/{WEIGHTS}: the safetensors header is damaged (ValueError('F32 of shape [2] in 4 bytes'))",
    ),
    "tensor missing": (
        lambda d: rewrite(d, f"{LAYER}.2.mixer.k_proj.weight", None),
        f"{{d}}: tensor {LAYER}.2.mixer.k_proj.weight is missing; the download is incomplete or config.json belongs",
    ),
    "experts missing": (
        lambda d: rewrite(d, f"{LAYER}.1.mixer.switch_mlp.fc2.weight", None),
        f"{{d}}: tensor {LAYER}.1.mixer.switch_mlp.fc2.weight is missing",
    ),
    "bias missing": (
        lambda d: edit_config(d, attention_bias=True),
        f"{{d}}/{INDEX}: tensor {LAYER}.2.mixer.q_proj.bias is missing",
    ),
    "tensor surplus": (
        lambda d: rewrite(d, f"{LAYER}.2.mixer.q_norm.weight", mx.zeros(32)),
        f"{{d}}/{WEIGHTS}: tensor {LAYER}.2.mixer.q_norm.weight is unknown to a model of 4 layers (1 M, 1 E, 1 *, 1 -)",
    ),
    "layer surplus": (
        lambda d: edit_config(d, hybrid_override_pattern="ME*", num_hidden_layers=3),
        f"{{d}}/{WEIGHTS}: tensor {LAYER}.3.mixer.down_proj.weight is unknown to a model of 3 layers",
    ),
    "wrong shape": (
        lambda d: rewrite(d, f"{LAYER}.2.mixer.q_proj.weight", mx.zeros((64, 64))),
        f"{{d}}/{WEIGHTS}: tensor {LAYER}.2.mixer.q_proj.weight is F32 [64, 64], config.json asks for [128, 64]; do",
    ),
    "wrong config": (
        lambda d: edit_config(d, head_dim=16),
        f"{{d}}/{WEIGHTS}: tensor {LAYER}.2.mixer.q_proj.weight is BF16 [128, 64], config.json asks for [64, 64]",
    ),
    "wrong shape of the convolution": (
        lambda d: edit_config(d, conv_kernel=3),
        f"{{d}}/{WEIGHTS}: tensor {LAYER}.0.mixer.conv1d.weight is BF16 [256, 4, 1], config.json asks for [256, 3, 1]",
    ),
    "wrong dtype": (
        lambda d: rewrite(d, "lm_head.weight", mx.zeros((96, 64), mx.uint8)),
        f"{{d}}/{WEIGHTS}: tensor lm_head.weight is U8 [96, 64], expected BF16 or F16 or F32; convert the BF16 model",
    ),
    "norms of two dtypes": (
        lambda d: rewrite(d, "backbone.norm_f.weight", mx.zeros(64)),
        f"{{d}}/{WEIGHTS}: tensor backbone.norm_f.weight is F32 [64], expected BF16",
    ),
    "fp8": (
        lambda d: edit_config(d, quantization_config={"quant_method": "fp8"}),
        "{d}/config.json: weights quantised by quant_method 'fp8' cannot be served; convert the BF16 model",
    ),
    "modelopt": (
        lambda d: write(d, "hf_quant_config.json", "{}"),
        "{d}/hf_quant_config.json: weights quantised by quant_method 'modelopt' cannot be served",
    ),
    "quantization is a word": (
        lambda d: edit_config(d, quantization="8bit"),
        "{d}/config.json: quantization is '8bit', expected an object",
    ),
    "map packs a dense module": (
        lambda d: edit_config(d, quantization={"lm_head": {"bits": 4}}),
        f"{{d}}/config.json: quantization of lm_head is {{'bits': 4}}, its tensors in {WEIGHTS} are dense",
    ),
}

PACKED: dict[str, tuple[Callable[[Path], object], str]] = {
    "scales missing": (
        lambda d: rewrite(d, "lm_head.scales", None),
        f"{{d}}/{WEIGHTS}: tensor lm_head.weight is U32 [96, 16], packed, but tensor lm_head.scales is missing",
    ),
    "biases missing": (
        lambda d: rewrite(d, "lm_head.biases", None),
        f"{{d}}/{WEIGHTS}: tensor lm_head.biases is missing",
    ),
    "scales of another shape": (
        lambda d: rewrite(d, "lm_head.scales", mx.zeros((97, 2))),
        f"{{d}}/{WEIGHTS}: tensor lm_head.scales is F32 [97, 2], config.json asks for [96, 2]",
    ),
    "unknown group": (
        lambda d: rewrite(d, "lm_head.scales", mx.zeros((96, 4))),
        f"{{d}}/{WEIGHTS}: tensor lm_head.weight is U32 [96, 16], with 4 scales a row: no format that packs 64 weights",
    ),
    "scales are a scalar": (
        lambda d: rewrite(d, "lm_head.scales", mx.array(1.0)),
        f"{{d}}/{WEIGHTS}: tensor lm_head.scales is F32 [], config.json asks for [96, 1]",
    ),
    "biases of another dtype": (
        lambda d: rewrite(d, "lm_head.biases", mx.zeros((96, 2))),
        f"{{d}}/{WEIGHTS}: tensor lm_head.biases is F32 [96, 2], expected BF16",
    ),
    "unknown mode": (
        lambda d: rewrite(d, "lm_head.scales", mx.zeros((96, 8), mx.uint8)),
        f"{{d}}/{WEIGHTS}: tensor lm_head.weight is U32 [96, 16], with 8 scales a row: no format",
    ),
    "biases in a mode without": (
        lambda d: rewrite(d, "lm_head.scales", mx.zeros((96, 2), mx.uint8)),
        f"{{d}}/{WEIGHTS}: tensor lm_head.biases does not belong to mode mxfp8",
    ),
    "global scale": (
        lambda d: rewrite(d, f"{LAYER}.1.mixer.switch_mlp.fc1.global_scale", mx.zeros(8)),
        f"{{d}}/{WEIGHTS}: tensor {LAYER}.1.mixer.switch_mlp.fc1.global_scale is a global scale, which is not",
    ),
    "map says other bits": (
        lambda d: edit_config(d, quantization={"lm_head": {"bits": 4}}),
        f"{{d}}/config.json: quantization of lm_head is {{'bits': 4}}, its tensors in {WEIGHTS} are 8:32",
    ),
    "map says dense": (
        lambda d: edit_config(d, quantization={"lm_head": False}),
        f"{{d}}/config.json: quantization of lm_head is False, its tensors in {WEIGHTS} are 8:32",
    ),
}
CASES = [(*case, name, False) for name, case in DENSE.items()] + [(*case, name, True) for name, case in PACKED.items()]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    quantize = {"group_size": 32, "bits": 8}
    return {
        packed: make(tmp_path_factory.mktemp("good"), SMALL, quantize=quantize if packed else None)
        for packed in (False, True)
    }


@pytest.mark.parametrize(("spoil", "message", "name", "packed"), CASES, ids=[name for _, _, name, _ in CASES])
def test_a_bad_checkpoint_is_refused(
    spoil: Callable[[Path], object], message: str, name: str, packed: bool, good: dict[bool, Path], tmp_path: Path
) -> None:
    for file in good[packed].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    size = (tmp_path / WEIGHTS).stat().st_size
    describe(str(tmp_path))
    spoil(tmp_path)
    with pytest.raises(CheckpointError) as raised:
        describe(str(tmp_path))
    expected = message.replace("{d}", str(tmp_path)).replace("{size}", str(size)).replace("{size+1}", str(size + 1))
    assert raised.value.message.startswith(expected), name


def test_map_that_agrees_is_accepted(good: dict[bool, Path], tmp_path: Path) -> None:
    for file in good[True].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = {"bits": 8, "group_size": 32, "mode": "affine"}
    edit_config(tmp_path, quantization={**settings, "lm_head": {"bits": 8}, "backbone.embeddings": True})
    assert describe(str(tmp_path)).spec == describe(str(good[True])).spec


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    make(tmp_path, SMALL)
    edit_tensors(tmp_path, {})
    mx.save_safetensors(str(tmp_path / "model-2.safetensors"), {"lm_head.weight": mx.zeros(1)})
    with pytest.raises(CheckpointError, match=r"tensor lm_head\.weight is in model-2\.safetensors too"):
        describe(str(tmp_path))


def test_a_tensor_that_the_index_leaves_out_is_refused(tmp_path: Path) -> None:
    save_original(tmp_path, SMALL, build(SMALL))
    index = json.loads((tmp_path / INDEX).read_text())
    del index["weight_map"]["mtp.layers.0.norm.weight"]
    (tmp_path / INDEX).write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"tensor mtp\.layers\.0\.norm\.weight is not in .*index\.json"):
        describe(str(tmp_path))


def test_experts_one_by_one_must_be_all_there_and_alike(tmp_path: Path) -> None:
    directory = save_original(tmp_path, SMALL, build(SMALL), files=1)
    (directory / "model-00001-of-00001.safetensors").rename(directory / WEIGHTS)
    name = f"{LAYER}.1.mixer.experts.5.up_proj.weight"
    rewrite(directory, name, mx.zeros((64, 32)))
    with pytest.raises(CheckpointError, match=r"experts\.5\.up_proj\.weight is F32 \[64, 32\], expected BF16"):
        describe(str(directory))
    rewrite(directory, name, None)
    with pytest.raises(CheckpointError, match=r"experts\.5\.up_proj\.weight is missing"):
        describe(str(directory))


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", [os.mkfifo, os.mkdir], ids=["pipe", "directory"])
def test_only_regular_files_are_opened(name: str, kind: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path, SMALL)
    (tmp_path / name).unlink()
    kind(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name}: is not a regular file"):
        Checkpoint(tmp_path).check()
