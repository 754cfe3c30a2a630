import json
from typing import Any

import pytest
from msgspec.structs import replace

from tests.checkpoints import BASE
from worker.checkpoint.config import read_spec
from worker.errors import CheckpointError
from worker.presets import preset
from worker.spec import AttentionSpec, MambaSpec, MLPSpec, ModelSpec, MoESpec

WHERE = "dir/config.json"

# what the public checkpoints say: nvidia/NVIDIA-Nemotron-3-{Nano-30B-A3B,Super-120B-A12B,Ultra-550B-A55B}-BF16
NANO: dict[str, Any] = {
    "model_type": "nemotron_h",
    "hybrid_override_pattern": "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "num_hidden_layers": 52,
    "vocab_size": 131072,
    "hidden_size": 2688,
    "max_position_embeddings": 262144,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "mamba_num_heads": 64,
    "mamba_head_dim": 64,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "n_routed_experts": 128,
    "num_experts_per_tok": 6,
    "moe_intermediate_size": 1856,
    "n_shared_experts": 1,
    "moe_shared_expert_intermediate_size": 3712,
    "routed_scaling_factor": 2.5,
    "time_step_min": 0.001,
    "time_step_max": 0.1,
}
SUPER = {
    **NANO,
    "hybrid_override_pattern": "MEMEMEM*EMEMEMEM*EMEMEMEM*EMEMEMEMEM*EMEMEMEMEM*"
    "EMEMEMEMEM*EMEMEMEMEM*EMEMEMEM*EMEMEMEME",
    "num_hidden_layers": 88,
    "hidden_size": 4096,
    "mamba_num_heads": 128,
    "n_routed_experts": 512,
    "num_experts_per_tok": 22,
    "moe_intermediate_size": 2688,
    "moe_latent_size": 1024,
    "moe_shared_expert_intermediate_size": 5376,
    "routed_scaling_factor": 5.0,
}
ULTRA = {
    **SUPER,
    "hybrid_override_pattern": "MEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEM*"
    "EMEMEM*EMEMEMEM*EMEMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME",
    "num_hidden_layers": 108,
    "hidden_size": 8192,
    "num_attention_heads": 64,
    "mamba_num_heads": 256,
    "moe_intermediate_size": 5120,
    "moe_latent_size": 2048,
    "moe_shared_expert_intermediate_size": 10240,
}


def read(config: dict[str, Any]) -> ModelSpec:
    return read_spec(json.loads(json.dumps(config)), WHERE)


def test_every_field() -> None:
    mamba = MambaSpec(
        num_heads=8,
        head_dim=16,
        state_size=32,
        num_groups=2,
        conv_kernel=4,
        conv_bias=True,
        proj_bias=False,
        time_step_limit=(0.0, float("inf")),
    )
    moe = MoESpec(
        num_experts=8,
        top_k=3,
        intermediate_size=64,
        latent_size=32,
        shared_size=96,
        num_groups=1,
        top_groups=1,
        normalize=True,
        scaling=2.5,
        bias=False,
    )
    attention = AttentionSpec(num_heads=4, num_kv_heads=2, head_dim=32, bias=False)
    mlp = MLPSpec(intermediate_size=96, bias=False)
    assert read(BASE) == ModelSpec(
        hidden_size=64,
        vocab_size=96,
        context_length=4096,
        norm_eps=1e-5,
        layers=(mamba, moe, attention, mlp, mamba, moe),
        eos_token_ids=(1, 2),
    )
    assert read(BASE).pattern == "ME*-ME"


@pytest.mark.parametrize("name", ["nano", "super", "ultra"])
def test_presets_have_the_shapes_of_the_public_models(name: str) -> None:
    public = read({"nano": NANO, "super": SUPER, "ultra": ULTRA}[name])
    assert replace(read(preset(name)["config"]), eos_token_ids=()) == public


WORDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}
NEW_WORDS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
PATTERN = BASE["hybrid_override_pattern"]


@pytest.mark.parametrize(
    "spelling",
    [
        {"hybrid_override_pattern": PATTERN, "num_hidden_layers": 6},
        {"hybrid_override_pattern": list(PATTERN)},
        {"layers_block_type": [WORDS[kind] for kind in PATTERN]},
        {"layer_types": [NEW_WORDS[kind] for kind in PATTERN], "num_hidden_layers": None},
        {"layer_types": [WORDS[kind] for kind in PATTERN], "layers_block_type": [NEW_WORDS[kind] for kind in PATTERN]},
        {"model_type": "nemotron_h_puzzle", "block_configs": [{"block_type": WORDS[kind]} for kind in PATTERN]},
    ],
    ids=["string", "characters", "layers_block_type", "layer_types", "two lists", "block_configs"],
)
def test_spellings_of_the_pattern(spelling: dict[str, Any]) -> None:
    assert read({**BASE, "hybrid_override_pattern": None, **spelling}) == read(BASE)


def test_older_names_of_keys() -> None:
    old = {
        "mamba_n_groups": BASE["n_groups"],
        "mamba_d_conv": 4,
        "mamba_conv_bias": True,
        "mamba_dt_limit": [0.0, 0.25],
        "attention_head_dim": 32,
    }
    gone = dict.fromkeys(("n_groups", "conv_kernel", "use_conv_bias", "head_dim"))
    assert read({**BASE, **gone, **old}) == read({**BASE, "time_step_limit": [0, 0.25]})


def test_puzzle_layers_have_sizes_of_their_own() -> None:
    blocks = [
        {"block_type": "mamba", "ssm_state_size": 96},
        {"block_type": "moe", "moe_intermediate_size": 128, "num_experts_per_tok": 2, "n_routed_experts": 4},
        {"block_type": "moe", "moe_shared_expert_intermediate_size": 32, "moe_latent_size": 64},
        {"block_type": "attention", "sliding_window": None},
    ]
    config = {**BASE, "model_type": "nemotron_h_puzzle", "block_configs": blocks, "hybrid_override_pattern": "MEE*"}
    mamba, first, second, _ = read({**config, "moe_intermediate_size": 256}).layers
    assert isinstance(mamba, MambaSpec)
    assert isinstance(first, MoESpec)
    assert isinstance(second, MoESpec)
    assert mamba.state_size == 96
    assert (first.intermediate_size, first.top_k, first.num_experts, first.shared_size) == (128, 2, 4, 96)
    assert (second.intermediate_size, second.top_k, second.latent_size, second.shared_size) == (256, 3, 64, 32)


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("null", (0.0, float("inf"))),
        ("[0.0, Infinity]", (0.0, float("inf"))),
        ('[0.0, {"__float__": "Infinity"}]', (0.0, float("inf"))),
        ("[0, 1]", (0.0, 1.0)),
    ],
)
def test_time_step_limit_is_never_the_time_step_min(value: str, limit: tuple[float, float]) -> None:
    config = {**BASE, "time_step_min": 0.001, "time_step_max": 0.1, "time_step_limit": json.loads(value)}
    mamba = read(config).layers[0]
    assert isinstance(mamba, MambaSpec)
    assert mamba.time_step_limit == limit


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"head_dim": None}, "head_dim", 16),
        ({"num_key_value_heads": None}, "num_kv_heads", 4),
        ({"attention_bias": None}, "bias", False),
    ],
)
def test_attention_defaults(changes: dict[str, Any], field: str, value: Any) -> None:
    assert getattr(read({**BASE, **changes}).layers[2], field) == value


@pytest.mark.parametrize("shared", [None, 0])
def test_no_shared_expert(shared: int | None) -> None:
    moe = read({**BASE, "n_shared_experts": shared}).layers[1]
    assert isinstance(moe, MoESpec)
    assert moe.shared_size is None


@pytest.mark.parametrize("key", ["use_bias", "mamba_proj_bias"])
def test_either_name_of_the_mamba_bias(key: str) -> None:
    mamba = read({**BASE, key: True}).layers[0]
    assert isinstance(mamba, MambaSpec)
    assert mamba.proj_bias


@pytest.mark.parametrize(("value", "ids"), [(2, (2,)), ([2, 11, 2], (2, 11)), (None, ()), ([], ())])
def test_end_of_sequence(value: Any, ids: tuple[int, ...]) -> None:
    assert read({**BASE, "eos_token_id": value}).eos_token_ids == ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is 'llama', only Nemotron-H models (nemotron_h, nemotron_h_puzzle)"),
        ({"model_type": None}, "model_type is None"),
        ({"model_type": "nemotron_h_puzzle"}, "block_configs is missing"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected a positive integer"),
        ({"hidden_size": 64.0}, "hidden_size is 64.0"),
        ({"hidden_size": True}, "hidden_size is True"),
        ({"vocab_size": 0}, "vocab_size is 0"),
        ({"max_position_embeddings": -1}, "max_position_embeddings is -1"),
        ({"layer_norm_epsilon": "small"}, "layer_norm_epsilon is 'small', expected a positive number"),
        ({"layer_norm_epsilon": 10**400}, "layer_norm_epsilon is 1000"),
        ({"layer_norm_epsilon": {"__float__": "NaN"}}, "layer_norm_epsilon is {"),
        ({"hybrid_override_pattern": None}, "no layer pattern, expected one of hybrid_override_pattern"),
        ({"hybrid_override_pattern": ""}, "hybrid_override_pattern is '', expected one entry per layer"),
        ({"hybrid_override_pattern": 6}, "hybrid_override_pattern is 6"),
        ({"hybrid_override_pattern": "MEX*"}, "hybrid_override_pattern, layer 2 is of kind 'X', known are M, mamba"),
        ({"layers_block_type": ["mamba", 3]}, "layers_block_type, layer 1 is of kind 3"),
        ({"block_configs": ["mamba"]}, "block_configs, layer 0 is of kind None"),
        ({"block_configs": "MEM"}, "block_configs is 'MEM'"),
        ({"layers_block_type": ["mamba"]}, "hybrid_override_pattern (ME*-ME) and layers_block_type (M) describe"),
        ({"num_hidden_layers": 7}, "num_hidden_layers is 7, but hybrid_override_pattern has 6 layers"),
        ({"mamba_num_heads": 7}, "mamba_num_heads is 7, not a multiple of n_groups (2)"),
        ({"conv_kernel": None}, "conv_kernel is missing"),
        ({"use_conv_bias": 1}, "use_conv_bias is 1, expected true or false"),
        ({"time_step_limit": [1.0, 0.5]}, "time_step_limit is [1.0, 0.5], expected [low, high]"),
        ({"time_step_limit": [-1.0, 0.5]}, "time_step_limit is [-1.0, 0.5]"),
        ({"time_step_limit": [0.5]}, "time_step_limit is [0.5]"),
        ({"time_step_limit": {"__float__": "Infinity"}}, "time_step_limit is {"),
        ({"num_attention_heads": 3}, "num_attention_heads is 3, not a multiple of num_key_value_heads (2)"),
        ({"num_attention_heads": 6, "head_dim": None}, "num_attention_heads is 6, no divisor of hidden_size (64)"),
        ({"num_experts_per_tok": 9}, "num_experts_per_tok is 9, more than the 8 experts to choose from"),
        ({"n_group": 4, "topk_group": 1}, "num_experts_per_tok is 3, more than the 2 experts to choose from"),
        ({"n_group": 3}, "n_routed_experts is 8, not a multiple of n_group (3)"),
        ({"n_group": 8, "topk_group": 8}, "n_group is 8, groups of the 8 experts must hold two at least"),
        ({"topk_group": 2}, "topk_group is 2, more than n_group (1)"),
        ({"n_shared_experts": -1}, "n_shared_experts is -1"),
        ({"moe_shared_expert_intermediate_size": None}, "moe_shared_expert_intermediate_size is missing"),
        ({"moe_latent_size": 0}, "moe_latent_size is 0"),
        ({"norm_topk_prob": "yes"}, "norm_topk_prob is 'yes'"),
        ({"routed_scaling_factor": 0}, "routed_scaling_factor is 0"),
        ({"intermediate_size": None}, "intermediate_size is missing"),
        ({"mlp_hidden_act": "silu"}, "mlp_hidden_act is 'silu', only 'relu2' is supported"),
        ({"mamba_hidden_act": "gelu"}, "mamba_hidden_act is 'gelu', only 'silu' is supported"),
        ({"sliding_window": 4096}, "sliding_window is 4096, only null is supported"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True, only false is supported"),
        ({"eos_token_id": 96}, "eos_token_id is 96, expected a token id below vocab_size (96)"),
        ({"eos_token_id": ["</s>"]}, "eos_token_id is ['</s>']"),
        ({"eos_token_id": True}, "eos_token_id is True"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value)[:60],
)
def test_errors_name_file_and_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as raised:
        read({**BASE, **changes})
    assert raised.value.message.startswith(f"{WHERE}: {message}")


def test_errors_name_the_layer_of_a_puzzle() -> None:
    blocks = [{"block_type": "moe"}, {"block_type": "attention", "sliding_window": 512}]
    config = {**BASE, "hybrid_override_pattern": None, "model_type": "nemotron_h_puzzle", "block_configs": blocks}
    with pytest.raises(CheckpointError, match=r"block_configs\[1\]\.sliding_window is 512, only null is supported"):
        read(config)
