"""Which tensors a layer is made of, and under which names checkpoints store them; no MLX.

Shapes: D hidden, N out, E experts, L latent (or hidden), F expert intermediate, C convolution channels, K its width,
H Mamba heads, I Mamba inner, V vocabulary.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Literal

from worker.errors import CheckpointError
from worker.spec import AttentionSpec, MambaSpec, MLPSpec, ModelSpec, MoESpec

PREFIXES = ("backbone.", "model.")  # NVIDIA and mlx-lm; transformers' own modules and Puzzle
MTP_PREFIX = "mtp."  # multi-token prediction: recognised, not loaded


@dataclass(frozen=True, slots=True)
class Part:
    """A weight of a layer: `key` is its name here, `path` its module (`matrix`, `experts`) or tensor in the checkpoint.

    `shape` is that of the dense weight: [N, D], [E, N, D], or what `array` and `conv` ([C, K]) hold.
    """

    key: str
    path: str
    shape: tuple[int, ...]
    kind: Literal["array", "conv", "matrix", "experts"] = "array"
    bias: bool = False


@dataclass(frozen=True, slots=True)
class Located:
    """The tensors that hold a part; more than one name in `weights` are single experts to be stacked."""

    part: Part
    weights: tuple[str, ...]
    scales: str | None = None
    biases: str | None = None
    bias: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """All tensors of the part."""
        return (*self.weights, *filter(None, (self.scales, self.biases, self.bias)))


def layer_parts(spec: ModelSpec, index: int, prefix: str) -> Iterator[Part]:
    """The parts of layer `index`, with the full path of each."""
    layer, hidden = spec.layers[index], spec.hidden_size
    root = f"{prefix}layers.{index}."
    yield Part("norm", root + "norm.weight", (hidden,))
    root += "mixer."

    def matrix(key: str, rows: int, columns: int, bias: bool, path: str | None = None) -> Part:
        return Part(key, root + (path or key), (rows, columns), "matrix", bias)

    match layer:
        case MambaSpec():
            inner, heads, channels = layer.inner_size, layer.num_heads, layer.conv_size
            yield matrix("in_proj", layer.in_proj_size, hidden, layer.proj_bias)
            yield Part("conv_weight", root + "conv1d.weight", (channels, layer.conv_kernel), "conv")
            if layer.conv_bias:
                yield Part("conv_bias", root + "conv1d.bias", (channels,))
            yield from (Part(key, root + key, (heads,)) for key in ("A_log", "D", "dt_bias"))
            yield Part("gate_norm", root + "norm.weight", (inner,))
            yield matrix("out_proj", hidden, inner, layer.proj_bias)
        case AttentionSpec():
            queries, keys = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
            yield matrix("q_proj", queries, hidden, layer.bias)
            yield matrix("k_proj", keys, hidden, layer.bias)
            yield matrix("v_proj", keys, hidden, layer.bias)
            yield matrix("o_proj", hidden, queries, layer.bias)
        case MLPSpec():
            yield matrix("up_proj", layer.intermediate_size, hidden, layer.bias)
            yield matrix("down_proj", hidden, layer.intermediate_size, layer.bias)
        case MoESpec():
            experts, inner, width = layer.num_experts, layer.intermediate_size, layer.latent_size or hidden
            yield Part("gate_weight", root + "gate.weight", (experts, hidden))
            yield Part("correction_bias", root + "gate.e_score_correction_bias", (experts,))
            yield Part("experts_up", root + "switch_mlp.fc1", (experts, inner, width), "experts")
            yield Part("experts_down", root + "switch_mlp.fc2", (experts, width, inner), "experts")
            if layer.shared_size:
                yield matrix("shared_up", layer.shared_size, hidden, layer.bias, "shared_experts.up_proj")
                yield matrix("shared_down", hidden, layer.shared_size, layer.bias, "shared_experts.down_proj")
            if layer.latent_size:
                yield matrix("latent_in", width, hidden, layer.bias, "fc1_latent_proj")
                yield matrix("latent_out", hidden, width, layer.bias, "fc2_latent_proj")


def embedding_part(spec: ModelSpec, prefix: str) -> Part:
    """The embedding [V, D]."""
    return Part("embedding", prefix + "embeddings", (spec.vocab_size, spec.hidden_size), "matrix")


def head_parts(spec: ModelSpec, prefix: str) -> tuple[Part, Part]:
    """The norm after the last layer and the head [V, D]."""
    shape = (spec.vocab_size, spec.hidden_size)
    return Part("final_norm", prefix + "norm_f.weight", shape[1:]), Part("head", "lm_head", shape, "matrix")


def locate(part: Part, names: Container[str], where: str) -> Located:
    """The tensors of `part` among `names`; CheckpointError, naming the tensor and `where`, if one is missing."""
    if part.kind in ("array", "conv"):
        located = Located(part, (part.path,))
    else:
        path = part.path
        located = Located(
            part,
            _experts(part, names) if part.kind == "experts" else (path + ".weight",),
            *(name if (name := path + suffix) in names else None for suffix in (".scales", ".biases")),
            bias=path + ".bias" if part.bias else None,
        )
    for name in located.names:
        if name not in names:
            raise CheckpointError(
                f"{where}: tensor {name} is missing; the download is incomplete or config.json belongs to another model"
            )
    return located


def _experts(part: Part, names: Container[str]) -> tuple[str, ...]:
    """One stacked tensor (mlx-lm's name or transformers') or one tensor per expert (NVIDIA's original)."""
    root, _, module = part.path.rpartition("switch_mlp.")
    projection = {"fc1": "up_proj", "fc2": "down_proj"}[module]
    if f"{root}experts.{projection}" in names:
        return (f"{root}experts.{projection}",)
    if f"{root}experts.0.{projection}.weight" in names:
        return tuple(f"{root}experts.{expert}.{projection}.weight" for expert in range(part.shape[0]))
    return (part.path + ".weight",)
