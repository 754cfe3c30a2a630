"""Each kind of layer against mlx-lm's."""

from typing import Any

import mlx.core as mx
import pytest

from tests.worker.models import layer_of, reference, repaired

LAYERS: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba": ("M", {}),
    "mamba-no-conv-bias": ("M", {"use_conv_bias": False}),
    "mamba-projection-bias": ("M", {"mamba_proj_bias": True}),
    "mamba-limited-time-step": ("M", {"time_step_limit": [0.05, 0.2]}),
    "attention": ("*", {}),
    "attention-bias": ("*", {"attention_bias": True}),
    "mlp": ("-", {}),
    "mlp-bias": ("-", {"mlp_bias": True}),
    "moe": ("E", {}),
    "moe-bias": ("E", {"mlp_bias": True}),
    "moe-no-latent": ("E", {"moe_latent_size": None}),
    "moe-no-shared": ("E", {"n_shared_experts": None}),
    "moe-2-groups": ("E", {"n_group": 2, "topk_group": 1}),
    "moe-4-groups": ("E", {"n_group": 4, "topk_group": 2}),
    "moe-not-normalized": ("E", {"norm_topk_prob": False}),
    "moe-top-1": ("E", {"num_experts_per_tok": 1}),
}
CHUNKS = (70, 1, 1, 5, 3)


def errors(name: str, dtype: mx.Dtype, bits: int | None) -> tuple[float, float]:
    """Mean and largest difference of our layer's output from mlx-lm's, in units of the outputs' mean size."""
    pattern, changes = LAYERS[name]
    model = reference(pattern, dtype, bits, **changes)
    stage = layer_of(model)
    if dtype != mx.float32:
        repaired(model)
    layer, cache = model.layers[0], (model.make_cache() or [None])[0]
    state = stage.new_state()
    state.open(1)
    ours, theirs = [], []
    for count in CHUNKS:
        x_TD = mx.random.normal((count, 64)).astype(dtype)
        mask = "causal" if pattern == "*" and count > 1 else None
        ours.append(stage(x_TD, [(1, count)], state) - x_TD)
        theirs.append(layer(x_TD[None], mask=mask, cache=cache)[0] - x_TD)
    y, wanted = mx.concatenate(ours).astype(mx.float32), mx.concatenate(theirs).astype(mx.float32)
    assert y.shape == wanted.shape
    error, size = mx.abs(y - wanted), mx.abs(wanted).mean()
    return (error.mean() / size).item(), (error.max() / size).item()


@pytest.mark.parametrize("bits", [None, 4, 6, 8], ids=["dense", "4-bit", "6-bit", "8-bit"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_mlx_lm_in_float32(name: str, bits: int | None) -> None:
    # the same sums in another order: some tens of roundings of 6e-8
    mean, largest = errors(name, mx.float32, bits)
    assert mean < 1e-6
    assert largest < 3e-5


@pytest.mark.parametrize("bits", [None, 8], ids=["dense", "8-bit"])
@pytest.mark.parametrize("name", LAYERS)
def test_layer_equals_mlx_lm_in_bfloat16(name: str, bits: int | None) -> None:
    # the same chain of roundings (each up to 4e-3), so nearly all values are equal; in the recurrence, where this
    # project keeps float32 throughout, mlx-lm rounds the products of B and C
    mean, largest = errors(name, mx.bfloat16, bits)
    assert mean < (2e-3 if name.startswith("mamba") else 1e-4)
    assert largest < 0.1
