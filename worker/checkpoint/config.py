"""From `config.json` to a `ModelSpec`: all spellings in use, and one clear error for everything else.

Spellings: NVIDIA's own files, those that transformers writes (`layers_block_type`, `layer_types`, floats as
`{"__float__": "Infinity"}`), those that mlx-lm writes, and Puzzle's `block_configs`, where a layer overrides the
model's values.
"""

from collections.abc import Mapping
from math import inf
from typing import Any

from worker.checkpoint.fields import Fields, as_float
from worker.errors import CheckpointError
from worker.spec import AttentionSpec, MambaSpec, Mixer, MLPSpec, ModelSpec, MoESpec

MODEL_TYPES = ("nemotron_h", "nemotron_h_puzzle")

KINDS = {
    "M": "M",
    "mamba": "M",
    "linear_attention": "M",
    "E": "E",
    "moe": "E",
    "*": "*",
    "attention": "*",
    "full_attention": "*",
    "-": "-",
    "mlp": "-",
}
PATTERN_KEYS = ("hybrid_override_pattern", "layers_block_type", "layer_types", "block_configs")

# settings that would change the maths: absent, null or one of these
REQUIRED = {
    "mlp_hidden_act": ("relu2",),
    "mamba_hidden_act": ("silu",),
    "sliding_window": (),
    "tie_word_embeddings": (False,),
    "quantize_activations": (False,),
}


def read_spec(config: Mapping[str, Any], where: str) -> ModelSpec:
    """The model that `config` describes.

    `where` names the file in errors. Raises CheckpointError, naming file and key, for a model that is not of this
    family, a missing key, a value of the wrong type, an unknown kind of layer or sizes that do not fit each other.
    """
    fields = Fields(config, where)
    if (model_type := config.get("model_type")) not in MODEL_TYPES:
        raise fields.error("model_type", f"only Nemotron-H models ({', '.join(MODEL_TYPES)}) can be served")
    for key, allowed in REQUIRED.items():
        fields.require(key, allowed)
    pattern = _read_pattern(fields)
    blocks = config.get("block_configs") or [{}] * len(pattern)
    if model_type == "nemotron_h_puzzle" and "block_configs" not in config:
        raise CheckpointError(f"{where}: block_configs is missing, a nemotron_h_puzzle model has one per layer")
    hidden_size = fields.size("hidden_size")
    layers: list[Mixer] = []
    for index, (kind, block) in enumerate(zip(pattern, blocks, strict=True)):
        layer = Fields(config, where, block, f"block_configs[{index}].")
        layer.require("sliding_window", REQUIRED["sliding_window"])
        layers.append(_READERS[kind](layer, hidden_size))
    vocab_size = fields.size("vocab_size")
    return ModelSpec(
        hidden_size=hidden_size,
        vocab_size=vocab_size,
        context_length=fields.size("max_position_embeddings"),
        norm_eps=fields.number("layer_norm_epsilon", 1e-5),
        layers=tuple(layers),
        eos_token_ids=read_eos_token_ids(config, where, vocab_size),
    )


def read_eos_token_ids(config: Mapping[str, Any], where: str, vocab_size: int) -> tuple[int, ...]:
    """The ids at which a text ends: `eos_token_id`, one or a list; none if it is absent or null."""
    value = config.get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(token) is int and 0 <= token < vocab_size for token in ids):
        raise CheckpointError(
            f"{where}: eos_token_id is {value!r}, expected a token id below vocab_size ({vocab_size}) or a list of them"
        )
    return tuple(dict.fromkeys(ids))


def _read_pattern(fields: Fields) -> str:
    """One of `M`, `E`, `*`, `-` per layer."""
    patterns: dict[str, str] = {}
    for key in PATTERN_KEYS:
        if (value := fields.config.get(key)) is None:
            continue
        if not isinstance(value, list if key == "block_configs" else str | list) or not value:
            raise fields.error(key, "expected one entry per layer")
        patterns[key] = ""
        for index, entry in enumerate(value):
            if key == "block_configs":
                entry = entry.get("block_type") if isinstance(entry, dict) else None
            if not isinstance(entry, str) or entry not in KINDS:
                kinds = ", ".join(KINDS)
                raise CheckpointError(f"{fields.where}: {key}, layer {index} is of kind {entry!r}, known are {kinds}")
            patterns[key] += KINDS[entry]
    if not patterns:
        raise CheckpointError(f"{fields.where}: no layer pattern, expected one of {', '.join(PATTERN_KEYS)}")
    (first, pattern), *others = patterns.items()
    for key, other in others:
        if other != pattern:
            raise CheckpointError(f"{fields.where}: {first} ({pattern}) and {key} ({other}) describe different layers")
    if fields.get("num_hidden_layers", len(pattern)) != len(pattern):
        raise fields.error("num_hidden_layers", f"but {first} has {len(pattern)} layers")
    return pattern


def _read_mamba(fields: Fields, hidden_size: int) -> MambaSpec:
    fields.multiple("mamba_num_heads", "n_groups")
    # clamping the time step to time_step_min or time_step_max is wrong: they are settings of the initialisation
    limit = fields.get("time_step_limit", [0.0, inf])
    bounds = [as_float(bound) for bound in limit] if isinstance(limit, list) and len(limit) == 2 else [None, None]
    low, high = bounds
    if low is None or high is None or not 0 <= low <= high:
        raise fields.error("time_step_limit", "expected [low, high] with 0 <= low <= high")
    return MambaSpec(
        num_heads=fields.size("mamba_num_heads"),
        head_dim=fields.size("mamba_head_dim"),
        state_size=fields.size("ssm_state_size"),
        num_groups=fields.size("n_groups"),
        conv_kernel=fields.size("conv_kernel"),
        conv_bias=fields.flag("use_conv_bias", True),
        # transformers reads the one, mlx-lm the other
        proj_bias=fields.flag("use_bias", False) or fields.flag("mamba_proj_bias", False),
        time_step_limit=(low, high),
    )


def _read_moe(fields: Fields, hidden_size: int) -> MoESpec:
    experts, top_k = fields.size("n_routed_experts"), fields.size("num_experts_per_tok")
    groups, top_groups = fields.size("n_group", 1), fields.size("topk_group", 1)
    if groups > 1:
        fields.multiple("n_routed_experts", "n_group")
        if experts < 2 * groups:
            raise fields.error("n_group", f"groups of the {experts} experts must hold two at least")
    if top_groups > groups:
        raise fields.error("topk_group", f"more than n_group ({groups})")
    if top_k > experts // groups * top_groups:
        raise fields.error(
            "num_experts_per_tok", f"more than the {experts // groups * top_groups} experts to choose from"
        )
    shared = fields.get("n_shared_experts", 0)
    if type(shared) is not int or shared < 0:
        raise fields.error("n_shared_experts", "expected an integer, 0 or more")
    return MoESpec(
        num_experts=experts,
        top_k=top_k,
        intermediate_size=fields.size("moe_intermediate_size"),
        latent_size=fields.optional_size("moe_latent_size"),
        # the size is that of all shared experts together
        shared_size=fields.size("moe_shared_expert_intermediate_size") if shared else None,
        num_groups=groups,
        top_groups=top_groups,
        normalize=fields.flag("norm_topk_prob", True),
        scaling=fields.number("routed_scaling_factor", 1.0),
        bias=fields.flag("mlp_bias", False),
    )


def _read_attention(fields: Fields, hidden_size: int) -> AttentionSpec:
    heads = fields.size("num_attention_heads")
    kv_heads = fields.size("num_key_value_heads", heads)
    if heads % kv_heads:
        raise fields.error("num_attention_heads", f"not a multiple of num_key_value_heads ({kv_heads})")
    if fields.get("head_dim") is None and hidden_size % heads:
        raise fields.error("num_attention_heads", f"no divisor of hidden_size ({hidden_size}), and head_dim is missing")
    return AttentionSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=fields.size("head_dim", hidden_size // heads),
        bias=fields.flag("attention_bias", False),
    )


def _read_mlp(fields: Fields, hidden_size: int) -> MLPSpec:
    return MLPSpec(intermediate_size=fields.size("intermediate_size"), bias=fields.flag("mlp_bias", False))


_READERS = {"M": _read_mamba, "E": _read_moe, "*": _read_attention, "-": _read_mlp}
