"""mlx-lm's models as stages: the same weights, in memory."""

from typing import Any

import mlx.core as mx
import mlx.nn as nn
import msgspec
from mlx.utils import tree_unflatten
from mlx_lm.models import nemotron_h
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear

from tests.checkpoints import BASE, build
from worker.checkpoint.config import read_spec
from worker.checkpoint.quantization import Quantization
from worker.model.matrix import Matrix
from worker.model.stage import Stage
from worker.spec import ModelSpec


def reference(pattern: str, dtype: mx.Dtype = mx.float32, bits: int | None = None, **changes: Any) -> nemotron_h.Model:
    """mlx-lm's model of random weights, quantised in groups of 32 if asked; `changes` are of the configuration."""
    model = build({**BASE, "hybrid_override_pattern": pattern, **changes}, dtype)
    if bits is not None:
        nn.quantize(model, 32, bits)
    return model


def spec_of(model: nemotron_h.Model) -> ModelSpec:
    given = {key: value for key, value in vars(model.args).items() if value is not None}
    return read_spec({**given, "time_step_limit": list(model.args.time_step_limit)}, "config.json")


class _Float32Gate(nemotron_h.MoEGate):
    """mlx-lm multiplies in the activation dtype here."""

    def __call__(self, x: mx.array) -> tuple[mx.array, mx.array]:
        gate = self.config
        return nemotron_h.group_expert_select(
            x.astype(mx.float32) @ self.weight.astype(mx.float32).T,
            self.e_score_correction_bias,
            gate.num_experts_per_tok,
            gate.n_group,
            gate.topk_group,
            gate.routed_scaling_factor,
            gate.norm_topk_prob,
        )


class _Float32Sums(nn.Module):
    """A (stacked) linear layer on the CPU as a GPU computes it: float32 sums, one rounding."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.matrix = [layer]

    def __call__(self, x: mx.array, *indices: mx.array, **how: bool) -> mx.array:
        (layer,) = self.matrix
        weight = layer.weight
        if "scales" in layer:
            scales, biases = layer.scales.astype(mx.float32), layer.biases.astype(mx.float32)
            weight = mx.dequantize(weight, scales, biases, layer.group_size, layer.bits)
        weight = weight.astype(mx.float32).swapaxes(-1, -2)
        if indices:
            return mx.gather_mm(x.astype(mx.float32), weight, rhs_indices=indices[0], **how).astype(x.dtype)
        y = (x.astype(mx.float32) @ weight).astype(x.dtype)
        return y + layer.bias if "bias" in layer else y


def repaired(model: nemotron_h.Model) -> nemotron_h.Model:
    """The model with what mlx-lm computes less exactly than this project in bfloat16 on the CPU put right, in place.

    That is the router's product, sums of quantised products, and dense gathered products (which it lacks there).
    """
    for layer in model.layers:
        if layer.block_type == "E":
            gate = _Float32Gate(model.args)
            gate.update(layer.mixer.gate.parameters())
            layer.mixer.gate = gate
    linear = (nn.QuantizedLinear, SwitchLinear, QuantizedSwitchLinear)
    replaced = [(path, _Float32Sums(part)) for path, part in model.named_modules() if isinstance(part, linear)]
    model.update_modules(tree_unflatten(replaced))
    return model


def matrix_of(module: nn.Module) -> Matrix:
    if "scales" not in module:
        return Matrix(module.weight, bias=module.get("bias"))
    how = Quantization(module.bits, module.group_size, module.mode)
    return Matrix(module.weight, module.scales, module.get("biases"), how, module.get("bias"))


def weights_of(layer: nn.Module) -> dict[str, mx.array | Matrix]:
    mixer, weights = layer.mixer, {"norm": layer.norm.weight}
    match layer.block_type:
        case "M":
            weights |= {name: matrix_of(mixer[name]) for name in ("in_proj", "out_proj")}
            weights |= {"conv_weight": mixer.conv1d.weight[..., 0], "gate_norm": mixer.norm.weight}
            weights |= {name: mixer[name] for name in ("A_log", "D", "dt_bias")}
            if "bias" in mixer.conv1d:
                weights["conv_bias"] = mixer.conv1d.bias
        case "*":
            weights |= {f"{name}_proj": matrix_of(mixer[f"{name}_proj"]) for name in "qkvo"}
        case "-":
            weights |= {name: matrix_of(mixer[name]) for name in ("up_proj", "down_proj")}
        case "E":
            weights |= {"gate_weight": mixer.gate.weight, "correction_bias": mixer.gate.e_score_correction_bias}
            weights |= {"experts_up": matrix_of(mixer.switch_mlp.fc1), "experts_down": matrix_of(mixer.switch_mlp.fc2)}
            if "shared_experts" in mixer:
                weights["shared_up"] = matrix_of(mixer.shared_experts.up_proj)
                weights["shared_down"] = matrix_of(mixer.shared_experts.down_proj)
            if "fc1_latent_proj" in mixer:
                weights["latent_in"] = matrix_of(mixer.fc1_latent_proj)
                weights["latent_out"] = matrix_of(mixer.fc2_latent_proj)
    return weights


def stage_of(model: nemotron_h.Model, first: int = 0, end: int | None = None) -> Stage:
    """Layers [first, end) of an mlx-lm model as a stage."""
    spec = spec_of(model)
    end = len(spec.layers) if end is None else end
    last = end == len(spec.layers)
    return Stage(
        spec,
        first,
        end,
        [weights_of(layer) for layer in model.layers[first:end]],
        embedding=matrix_of(model.backbone.embeddings) if first == 0 else None,
        final_norm=model.backbone.norm_f.weight if last else None,
        head=matrix_of(model.lm_head) if last else None,
    )


def layer_of(model: nemotron_h.Model) -> Stage:
    """The first layer as a stage in the middle of a model: hidden states in, hidden states out."""
    spec = spec_of(model)
    spec = msgspec.structs.replace(spec, layers=spec.layers[:1] * 3)
    return Stage(spec, 1, 2, [weights_of(model.layers[0])])
