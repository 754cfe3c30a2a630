"""Checkpoints for tests: built, quantised and saved by mlx-lm's own code, or in the original Hugging Face layout."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map_with_path
from mlx_lm.models.nemotron_h import Model, ModelArgs
from mlx_lm.utils import quantize_model, save_config, save_model

BASE: dict[str, Any] = {
    "model_type": "nemotron_h",
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "attention_bias": False,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "mamba_proj_bias": False,
    "ssm_state_size": 32,
    "conv_kernel": 4,
    "n_groups": 2,
    "mlp_bias": False,
    "layer_norm_epsilon": 1e-5,
    "use_bias": False,
    "use_conv_bias": True,
    "hybrid_override_pattern": "ME*-ME",
    "moe_intermediate_size": 64,
    "moe_shared_expert_intermediate_size": 96,
    "moe_latent_size": 32,
    "n_group": 1,
    "n_routed_experts": 8,
    "n_shared_experts": 1,
    "topk_group": 1,
    "num_experts_per_tok": 3,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "eos_token_id": [1, 2],
}

CONFIGS: dict[str, dict[str, Any]] = {
    "latent": BASE,
    "nano": {**BASE, "moe_latent_size": None, "hybrid_override_pattern": "MEM*EME"},
    "dense": {**BASE, "hybrid_override_pattern": "M-M*-"},
    "grouped": {**BASE, "n_group": 2, "topk_group": 1},
    "alone": {**BASE, "n_shared_experts": None, "hybrid_override_pattern": "ME*E"},
    "biased": {
        **BASE,
        **dict.fromkeys(("attention_bias", "mamba_proj_bias", "mlp_bias"), True),
        "use_conv_bias": False,
    },
}


def build(config: dict[str, Any], dtype: mx.Dtype = mx.bfloat16, seed: int = 0) -> Model:
    """mlx-lm's model with random weights: norms, biases and the router's correction differ from their initial ones."""
    mx.random.seed(seed)
    model = Model(ModelArgs.from_dict(config))

    def cast(path: str, array: mx.array) -> mx.array:
        name = path.rpartition(".")[2]
        if name == "dt_bias":
            array = mx.random.uniform(-4.0, 0.0, array.shape)
        elif name == "e_score_correction_bias":
            array = mx.random.normal(array.shape) * 0.1
        elif "norm" in path or name in ("bias", "D"):
            array = array + mx.random.normal(array.shape) * 0.1
        elif path.endswith("gate.weight"):
            array = mx.random.normal(array.shape) * 0.2
        keep = name in ("A_log", "e_score_correction_bias")
        return array.astype(mx.float32 if keep else dtype)

    model.update(tree_map_with_path(cast, model.parameters()))
    mx.eval(model.parameters())
    return model


def save(directory: Path, config: dict[str, Any], model: Model, quantize: dict[str, Any] | None = None) -> Path:
    """Save as mlx-lm does, after `quantize_model(**quantize)`."""
    if quantize is not None:
        model, config = quantize_model(model, config, **quantize)
    save_model(directory, model)
    save_config(dict(config), directory / "config.json")
    return directory


def make(
    directory: Path,
    config: dict[str, Any] = BASE,
    *,
    dtype: mx.Dtype = mx.bfloat16,
    quantize: dict[str, Any] | None = None,
    seed: int = 0,
) -> Path:
    """An MLX checkpoint of random weights in `directory`."""
    return save(directory, config, build(config, dtype, seed), quantize)


def arrays(model: Model) -> dict[str, mx.array]:
    """The model's arrays by the checkpoint's names."""
    return dict(tree_flatten(model.parameters()))


def original_tensors(model: Model, prefix: str, stacked: bool) -> Iterator[tuple[str, mx.array]]:
    """The unquantised model's tensors under NVIDIA's names, or under transformers' own (`model.`, stacked experts)."""
    for name, array in arrays(model).items():
        name = name.replace("backbone.", prefix)
        root, found, module = name.removesuffix(".weight").partition("switch_mlp.")
        if name.endswith("conv1d.weight"):
            yield name, array.swapaxes(1, 2)
        elif not found:
            yield name, array
        else:
            projection = {"fc1": "up_proj", "fc2": "down_proj"}[module]
            if stacked:
                yield f"{root}experts.{projection}", array
            else:
                for expert in range(array.shape[0]):
                    yield f"{root}experts.{expert}.{projection}.weight", array[expert]


def save_original(
    directory: Path,
    config: dict[str, Any],
    model: Model,
    *,
    files: int = 3,
    prefix: str = "backbone.",
    stacked: bool = False,
) -> Path:
    """Save in the layout of the original checkpoints: several files, an index, multi-token prediction tensors."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = dict(original_tensors(model, prefix, stacked))
    tensors["mtp.layers.0.norm.weight"] = mx.zeros(config["hidden_size"])
    index: dict[str, str] = {}
    names = list(tensors)
    for number in range(files):
        file = f"model-{number + 1:05}-of-{files:05}.safetensors"
        chosen = {name: mx.contiguous(tensors[name]) for name in names[number::files]}
        mx.save_safetensors(str(directory / file), chosen, {"format": "pt"})
        index |= dict.fromkeys(chosen, file)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    save_config(dict(config), directory / "config.json")
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    """Change keys of `config.json`; None removes one."""
    path = directory / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_tensors(directory: Path, changes: dict[str, mx.array | None]) -> None:
    """Replace, add or (None) remove tensors of a checkpoint with one file and no index."""
    (directory / "model.safetensors.index.json").unlink(missing_ok=True)
    path = directory / "model.safetensors"
    tensors = {**mx.load(str(path)), **changes}  # type: ignore[dict-item]
    kept = {name: array for name, array in tensors.items() if array is not None}
    mx.eval(list(kept.values()))
    mx.save_safetensors(str(path), kept)
