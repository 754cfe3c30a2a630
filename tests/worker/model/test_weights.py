from itertools import pairwise
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm.utils import load_model, quantize_model

from tests.checkpoints import BASE, CONFIGS, build, edit_config, edit_tensors, make, save_original
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.quantization import parse_quantization
from worker.errors import CheckpointError, ConfigError
from worker.model.matrix import Matrix
from worker.model.weights import StageWeights, load_stage

FORMATS: dict[str, dict[str, Any]] = {
    **{f"{bits}:{group}": {"bits": bits, "group_size": group} for bits in (2, 3, 4, 5, 6, 8) for group in (32, 64)},
    "8:128": {"bits": 8, "group_size": 128},
    **{mode: {"bits": None, "group_size": None, "mode": mode} for mode in ("mxfp4", "nvfp4", "mxfp8")},
}
# our key -> mlx-lm's module or array of the layer's mixer
NAMES = {
    "conv_weight": "conv1d.weight",
    "conv_bias": "conv1d.bias",
    "gate_norm": "norm.weight",
    "gate_weight": "gate.weight",
    "correction_bias": "gate.e_score_correction_bias",
    "experts_up": "switch_mlp.fc1",
    "experts_down": "switch_mlp.fc2",
    "shared_up": "shared_experts.up_proj",
    "shared_down": "shared_experts.down_proj",
    "latent_in": "fc1_latent_proj",
    "latent_out": "fc2_latent_proj",
}
OUTSIDE = {"embedding": "backbone.embeddings", "final_norm": "backbone.norm_f.weight", "head": "lm_head"}
MATRIX = {"weight": "weight", "scales": "scales", "biases": "biases", "bias": "bias"}


def load(directory: Path, first: int = 0, end: int | None = None, **options: Any) -> StageWeights:
    checkpoint = Checkpoint(directory)
    return load_stage(checkpoint, first, len(checkpoint.spec.layers) if end is None else end, **options)


def flatten(stage: StageWeights, first: int = 0) -> dict[str, mx.array]:
    """The stage's arrays by mlx-lm's names."""
    found: dict[str, mx.array] = {}

    def add(name: str, weight: mx.array | Matrix | None) -> None:
        if isinstance(weight, Matrix):
            parts = {key: getattr(weight, field) for field, key in MATRIX.items()}
            found.update({f"{name}.{key}": array for key, array in parts.items() if array is not None})
        elif weight is not None:
            found[name] = weight

    for index, layer in enumerate(stage.layers, first):
        for key, weight in layer.items():
            path = "norm.weight" if key == "norm" else f"mixer.{NAMES.get(key, key)}"
            add(f"backbone.layers.{index}.{path}", weight)
    for key, name in OUTSIDE.items():
        add(name, getattr(stage, key))
    return found


def of_mlx_lm(model: Any) -> dict[str, mx.array]:
    arrays: dict[str, mx.array] = dict(tree_flatten(model.parameters()))
    return {name: a.squeeze(2) if name.endswith("conv1d.weight") else a for name, a in arrays.items()}


def assert_same(found: dict[str, mx.array], expected: dict[str, mx.array]) -> None:
    """The same names, and for each the same dtype, shape and bits."""
    assert sorted(found) == sorted(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        assert mx.array_equal(found[name].view(mx.uint8), array.view(mx.uint8)), name


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16, mx.float32], ids=["bf16", "fp16", "fp32"])
def test_dense_weights_are_those_of_mlx_lm(name: str, dtype: mx.Dtype, tmp_path: Path) -> None:
    make(tmp_path, CONFIGS[name], dtype=dtype)
    assert_same(flatten(load(tmp_path)), of_mlx_lm(load_model(tmp_path)[0]))


@pytest.mark.parametrize("format", FORMATS)
def test_packed_weights_are_those_of_mlx_lm(format: str, tmp_path: Path) -> None:
    config = {**BASE, "hidden_size": 128, "moe_latent_size": 64}
    make(tmp_path, config, quantize=FORMATS[format])
    stage = load(tmp_path)
    assert_same(flatten(stage), of_mlx_lm(load_model(tmp_path)[0]))
    matrices = [w for layer in stage.layers for w in layer.values() if isinstance(w, Matrix)]
    # a matrix whose rows are no multiple of the group stays dense
    for matrix in [*matrices, stage.embedding, stage.head]:
        assert isinstance(matrix, Matrix)
        assert matrix.quantization == (None if matrix.scales is None else parse_quantization(format))
    assert stage.head is not None
    assert stage.head.quantization is not None


def test_each_module_may_be_packed_in_its_own_format(tmp_path: Path) -> None:
    """As mlx-lm's mixed recipes write it: a map of module paths, what it does not name has the default's format."""
    settings = {
        "in_proj": {"bits": 6, "group_size": 64, "mode": "affine"},
        "switch_mlp.fc1": {"bits": 4, "group_size": 32, "mode": "mxfp4"},
        "o_proj": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
        "q_proj": False,
    }

    def choose(path: str, module: Any) -> bool | dict[str, Any]:
        return next((choice for name, choice in settings.items() if path.endswith(name)), True)

    make(tmp_path, quantize={"bits": 8, "group_size": 32, "quant_predicate": choose})
    stage = load(tmp_path)
    assert_same(flatten(stage), of_mlx_lm(load_model(tmp_path)[0]))
    mamba, moe, attention = stage.layers[:3]
    found = [mamba["in_proj"], mamba["out_proj"], moe["experts_up"], attention["o_proj"], attention["q_proj"]]
    formats = [weight.quantization for weight in found if isinstance(weight, Matrix)]
    assert [str(format) for format in formats] == ["6:64", "8:32", "mxfp4", "nvfp4", "None"]


def test_formats_are_read_from_the_tensors_where_the_config_is_silent(tmp_path: Path) -> None:
    make(tmp_path, quantize={"bits": 5, "group_size": 32})
    before = flatten(load(tmp_path))
    edit_config(tmp_path, quantization=None, quantization_config=None)
    assert_same(flatten(load(tmp_path)), before)


LAYOUTS = {"nvidia": ("backbone.", False), "transformers": ("model.", True), "puzzle": ("model.", False)}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["latent", "nano", "biased"])
def test_original_layouts_give_the_same_weights(layout: str, name: str, tmp_path: Path) -> None:
    prefix, stacked = LAYOUTS[layout]
    model = build(CONFIGS[name])
    save_original(tmp_path, CONFIGS[name], model, prefix=prefix, stacked=stacked)
    assert_same(flatten(load(tmp_path)), of_mlx_lm(model))


@pytest.mark.parametrize("original", [False, True], ids=["mlx", "original"])
@pytest.mark.parametrize("format", ["8:32", "4:64", "3:32", "mxfp4", "nvfp4", "mxfp8"])
def test_quantising_on_load_is_mlx_lm_s_quantize_model(format: str, original: bool, tmp_path: Path) -> None:
    model = build(BASE)
    if original:
        save_original(tmp_path, BASE, model)
    else:
        make(tmp_path, BASE)
    stage = load(tmp_path, quantize=parse_quantization(format))
    expected, _ = quantize_model(model, BASE, **FORMATS[format])
    assert_same(flatten(stage), of_mlx_lm(expected))


def test_quantising_twice_is_refused(tmp_path: Path) -> None:
    make(tmp_path, quantize={"bits": 8, "group_size": 32})
    with pytest.raises(ConfigError, match="is quantised already"):
        load(tmp_path, quantize=parse_quantization("4:64"))


def test_stages_together_are_the_whole(tmp_path: Path) -> None:
    make(tmp_path)
    whole = flatten(load(tmp_path))
    joined: dict[str, mx.array] = {}
    for index in range(len(BASE["hybrid_override_pattern"])):
        stage = flatten(load(tmp_path, index, index + 1), index)
        assert joined.keys().isdisjoint(stage)
        joined |= stage
    assert_same(joined, whole)


def test_a_stage_opens_its_own_files_only(tmp_path: Path) -> None:
    save_original(tmp_path, BASE, build(BASE), files=40)
    whole = flatten(load(tmp_path))
    own = set(Checkpoint(tmp_path).files_of(2, 4))
    for file in tmp_path.glob("*.safetensors"):
        if file.name not in own:
            file.unlink()
    stage = flatten(load(tmp_path, 2, 4), 2)
    assert_same(stage, {name: whole[name] for name in stage})


def test_a_stage_reads_its_own_tensors_only(tmp_path: Path) -> None:
    """One file holds all, and the embedding and the head, which are not this stage's, are most of it."""
    config = {**BASE, "vocab_size": 65536, "hybrid_override_pattern": "ME*", "num_hidden_layers": None}
    make(tmp_path, config)
    others = 2 * 65536 * config["hidden_size"] * 2
    mx.clear_cache()
    mx.reset_peak_memory()
    before = mx.get_active_memory()
    stage = load(tmp_path, 1, 2)
    assert mx.get_peak_memory() - before < others / 20
    assert stage.embedding is stage.head is stage.final_norm is None


def test_quantising_on_load_needs_little_more_than_the_result(tmp_path: Path) -> None:
    """Experts are packed one by one: their dense stack, several times as large as the result, never exists."""
    config = {**BASE, "hybrid_override_pattern": "E", "moe_intermediate_size": 2048, "n_routed_experts": 32}
    save_original(tmp_path, config, build(config))
    dense = 2 * 32 * 2048 * 32 * 2
    mx.clear_cache()
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    stage = load(tmp_path, quantize=parse_quantization("2:32"))
    packed = sum(array.nbytes for array in flatten(stage).values())
    assert packed < dense / 4
    assert mx.get_peak_memory() - before < dense / 2


@pytest.mark.parametrize("quantize", [None, "8:32"])
def test_progress_grows_to_the_total(quantize: str | None, tmp_path: Path) -> None:
    save_original(tmp_path, BASE, build(BASE))
    seen: list[tuple[int, int]] = []
    options = {"quantize": parse_quantization(quantize)} if quantize else {}
    load(tmp_path, 1, 4, progress=lambda loaded, total: seen.append((loaded, total)), **options)
    checkpoint = Checkpoint(tmp_path)
    parts = list(checkpoint.parts(1, 4))
    total = sum(checkpoint.shards.info(name).nbytes for _, part in parts for name in part.names)
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert len(seen) == len(parts) + 1
    assert all(earlier[0] < later[0] for earlier, later in pairwise(seen))


def test_nothing_is_read_if_a_tensor_is_wrong(tmp_path: Path) -> None:
    make(tmp_path)
    edit_tensors(tmp_path, {"backbone.layers.5.mixer.fc2_latent_proj.weight": mx.zeros((64, 31))})
    calls: list[int] = []
    with pytest.raises(CheckpointError, match=r"is F32 \[64, 31\], config\.json asks for \[64, 32\]"):
        load(tmp_path, progress=lambda loaded, total: calls.append(loaded))
    assert calls == []
