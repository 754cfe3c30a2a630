"""The published totals, and to the byte what workers hold."""

import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from coordinator.plan.cost import ModelCost
from coordinator.plan.sources import checkpoint_cost, model_cost, preset_cost
from tests.checkpoints import BASE, CONFIGS, make, save_original
from tests.checkpoints import build as build_model
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.config import read_spec
from worker.checkpoint.quantization import parse_quantization
from worker.errors import ConfigError
from worker.footprint import footprint
from worker.model.matrix import Matrix
from worker.model.random_model import random_parts
from worker.model.stage import Stage
from worker.model.weights import load_stage
from worker.presets import preset


def gigabytes(cost: ModelCost) -> str:
    return f"{sum(piece.step_bytes(1, 1) for piece in cost.all) / 1e9:.2f}"


@pytest.mark.parametrize(
    ("name", "parameters", "read"),
    [("nano", "31.58", "3.23"), ("super", "120.67", "12.23"), ("ultra", "549.31", "54.99")],
)
def test_parameters_are_the_published_ones(name, parameters, read):
    cost = model_cost(name, None)
    assert (f"{cost.parameters / 1e9:.2f}", f"{cost.parameters_read / 1e9:.2f}") == (parameters, read)


@pytest.mark.parametrize(
    ("name", "quantize", "expected"),
    [
        ("super", "8:32", "14.17"),
        ("super", "8:64", "13.41"),
        ("super", "4:64", "7.34"),
        ("super", "nvfp4", "7.34"),
        ("nano", "8:64", "3.53"),
        ("nano", "6:64", "2.73"),
        ("ultra", "8:64", "59.42"),
        ("ultra", "4:64", "32.03"),
    ],
)
def test_gigabytes_a_token(name, quantize, expected):
    """The byte model of reference/kernels.md 0; the state of the scan is read and written in float32."""
    assert gigabytes(model_cost(name, quantize)) == expected


def test_layers_of_super_one_by_one():
    cost = model_cost("super", "none")
    kinds = {piece.kind: piece for piece in cost.all}
    assert f"{kinds['M'].parameters / 1e6:.1f}" == "109.6"
    assert f"{kinds['*'].parameters / 1e6:.1f}" == "35.7"
    assert f"{kinds['E'].parameters_read / 1e6:.1f}" == "175.6"
    assert kinds["head"].parameters == 4096 * 131072 + 4096
    assert kinds["M"].sequence_bytes == 2 * 128 * 64 * 128 * 4
    # a multiplication and an addition a weight, and the scan
    assert kinds["M"].flops == 2 * kinds["M"].parameters + 6 * 128 * 64 * 128


def test_keys_and_values_of_nano():
    """6144 bytes a position, 46 MiB of scan state and 36 KB of convolution tail a Mamba layer (distributed.md 3.2)."""
    cost = model_cost("nano", None)
    assert sum(piece.position_bytes for piece in cost.layers) == 6144
    assert sum(piece.state.constant for piece in cost.layers) == 46 * 2**20 + 23 * 3 * 6144 * 2


def test_distinct_experts_are_the_mean_of_random_choices():
    cost = model_cost("super", None)
    (piece,) = {piece for piece in cost.layers if piece.kind == "E"}
    rng = random.Random(1)
    for batch in (1, 3, 8):
        used = [len({e for _ in range(batch) for e in rng.sample(range(512), 22)}) for _ in range(400)]
        expected = piece.fixed_bytes + piece.expert_bytes * sum(used) / len(used) / 512
        assert piece.step_bytes(batch, batch) == pytest.approx(expected, rel=0.01)
    assert piece.step_bytes(10**6, 1) == piece.fixed_bytes + piece.expert_bytes < piece.resident_bytes


def mixed(path: str, _: Any) -> bool | dict[str, int]:
    """A map of modules, as mixed recipes write it."""
    if "out_proj" in path or "shared_experts" in path:
        return {"bits": 4, "group_size": 32}
    return "q_proj" not in path


QUANTIZE: dict[str, dict[str, Any] | None] = {
    "bfloat16": None,
    "8:32": {"bits": 8, "group_size": 32},
    "4:64": {"bits": 4, "group_size": 64},
    "nvfp4": {"bits": 4, "group_size": 16, "mode": "nvfp4"},
    "mixed": {"bits": 8, "group_size": 32, "quant_predicate": mixed},
}


def stages(checkpoint: Checkpoint, quantize: str | None = None) -> list[tuple[Stage, int, int]]:
    """The model in three stages."""
    layers = len(checkpoint.spec.layers)
    made = []
    for first, end in ((0, 1), (1, layers - 1), (layers - 1, layers)):
        packing = parse_quantization(quantize) if quantize else None
        weights = load_stage(checkpoint, first, end, quantize=packing)
        ends = {"embedding": weights.embedding, "final_norm": weights.final_norm, "head": weights.head}
        made.append((Stage(checkpoint.spec, first, end, weights.layers, **ends), first, end))
    return made


def check(cost: ModelCost, made: list[tuple[Stage, int, int]]) -> None:
    for stage, first, end in made:
        pieces = cost.pieces(first, end)
        assert sum(piece.resident_bytes for piece in pieces) == stage.nbytes, (first, end)
        # small arrays are held in float32 and, in the fused kernels, read as stored
        stored = sum(piece.fixed_bytes + piece.expert_bytes for piece in pieces)
        looked_up = sum(piece.resident_bytes for piece in pieces if piece.kind == "embedding")
        for rows in (1, 4):
            read = sum(piece.step_bytes(rows, 0) - piece.row_bytes * rows for piece in pieces)
            assert read - stored == pytest.approx(stage.read_bytes(rows) - stage.nbytes + looked_up, rel=1e-9)


@pytest.mark.parametrize("quantize", QUANTIZE.values(), ids=QUANTIZE)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_bytes_are_those_that_stages_hold(tmp_path: Path, config, quantize):
    make(tmp_path, config, quantize=quantize)
    checkpoint = Checkpoint(tmp_path)
    check(checkpoint_cost(checkpoint, None, name="made"), stages(checkpoint))


@pytest.mark.parametrize("quantize", ["8:32", "5:32", "4:64", "mxfp4", "nvfp4", "mxfp8"])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32], ids=["bfloat16", "float32"])
def test_bytes_after_quantising_on_load(tmp_path: Path, quantize, dtype):
    save_original(tmp_path, BASE, build_model(BASE, dtype))
    checkpoint = Checkpoint(tmp_path)
    check(model_cost(str(tmp_path), quantize), stages(checkpoint, quantize))


@pytest.mark.parametrize("quantize", ["8:32", "4:64"])
def test_bytes_of_a_preset_are_those_of_its_random_weights(quantize):
    packing = parse_quantization(quantize)
    spec = read_spec(preset("demo")["config"], "preset")
    nbytes: dict[int | None, int] = defaultdict(int)
    for index, _, made in random_parts(spec, packing):
        nbytes[index] += sum(a.nbytes for a in made.arrays) if isinstance(made, Matrix) else made.nbytes
    cost = preset_cost("demo", packing)
    assert [p.fixed_bytes + p.expert_bytes for p in cost.layers] == [nbytes[n] for n in range(len(spec.layers))]
    assert cost.embedding.resident_bytes + cost.head.resident_bytes == nbytes[None]


@pytest.mark.parametrize("quantize", ["bfloat16", "8:32", "mixed", "nvfp4"])
def test_config_alone_gives_the_sizes_of_the_headers(tmp_path: Path, quantize):
    """A hub id whose index is here and whose weights are not."""
    config = {**BASE, "torch_dtype": "bfloat16"}
    if QUANTIZE[quantize] is None:
        save_original(tmp_path, config, build_model(config))
    else:
        make(tmp_path, config, quantize=QUANTIZE[quantize])
    exact = checkpoint_cost(Checkpoint(tmp_path), None, name="made")
    assert "headers" in exact.origin
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    declared = checkpoint_cost(Checkpoint(tmp_path), None, name="made")
    assert "config.json" in declared.origin
    assert declared.all == exact.all


@pytest.mark.parametrize("said", [None, {"bits": "many"}], ids=["silent", "wrong"])
def test_where_config_does_not_name_the_format_it_is_assumed(tmp_path: Path, said):
    make(tmp_path, BASE, quantize={"bits": 8, "group_size": 32})
    exact = checkpoint_cost(Checkpoint(tmp_path), None, name="made")
    for file in tmp_path.glob("*.safetensors"):
        file.unlink()
    checkpoint = Checkpoint(tmp_path)
    checkpoint.config["quantization"] = said
    assert checkpoint_cost(checkpoint, None, name="made").all == exact.all


def test_state_is_that_of_the_footprint_every_stage_reports(tmp_path: Path):
    make(tmp_path, BASE)
    checkpoint = Checkpoint(tmp_path)
    cost = checkpoint_cost(checkpoint, None, name="made")
    for stage, first, end in stages(checkpoint):
        state = stage.new_state()
        state.open(7)
        inputs = mx.zeros(300, mx.uint32) if first == 0 else mx.zeros((300, 64), mx.bfloat16)
        mx.eval(stage(inputs, [(7, 300)], state), *state.pending())
        assert sum(piece.state.bytes(300) for piece in cost.pieces(first, end)) == state.nbytes
        assert footprint(checkpoint.spec.layers[first:end], 2).bytes(300) == state.nbytes


@pytest.mark.parametrize("quantize", ["7:32", "fp8", ""])
def test_an_unknown_packing_is_refused(quantize):
    with pytest.raises(ConfigError, match="BITS:GROUP"):
        model_cost("nano", quantize)
