"""Decode through the fused kernels, in the host dialect, against the reference blocks and against fp32."""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import pytest
from mlx_lm.models import nemotron_h

from kernels import backend
from kernels.dialect import host
from kernels.mamba import decode as mamba
from tests.worker.models import matrix_of, reference, spec_of, stage_of, weights_of
from worker.model import fused
from worker.model.matrix import Matrix
from worker.model.stage import Stage

pytestmark = pytest.mark.skipif(host.compiler() is None, reason="no C++ compiler on this machine")

PROMPTS = ([3, 1, 4], [1, 5])
FORCED = ([9, 2], [6, 5], [3, 5])


def logits(stage: Stage, dialect: backend.Dialect, prompts: Sequence[list[int]] = PROMPTS, forced=FORCED) -> mx.array:
    """Logits of each forced step [steps, B, V], all sequences in one batch, after prompts taken by the reference."""
    state, rows = stage.new_state(), []
    for request, prompt in enumerate(prompts):
        state.open(request)
        stage(mx.array(prompt), [(request, len(prompt))], state)
    batch = range(len(prompts))
    for tokens in forced:
        with backend.using(dialect):
            out = stage(mx.array(tokens), [(request, 1) for request in batch], state, batch)
            mx.eval(out, *state.pending())
        rows.append(out)
    return mx.stack(rows)


def fused_stage(model: nemotron_h.Model) -> Stage:
    """A stage whose fused forms are those of the host dialect."""
    with backend.using("host"):
        return stage_of(model)


def wide(weight: mx.array | Matrix) -> mx.array | Matrix:
    if isinstance(weight, mx.array):
        return weight.astype(mx.float32)
    if (how := weight.quantization) is None:
        return Matrix(weight.weight.astype(mx.float32))
    scales, biases = weight.scales.astype(mx.float32), weight.biases.astype(mx.float32)
    return Matrix(mx.dequantize(weight.weight, scales, biases, group_size=how.group_size, bits=how.bits))


def exact_stage(model: nemotron_h.Model) -> Stage:
    """The same weights, everything in fp32."""
    layers = [{key: wide(value) for key, value in weights_of(layer).items()} for layer in model.layers]
    return Stage(
        spec_of(model),
        0,
        len(layers),
        layers,
        embedding=wide(matrix_of(model.backbone.embeddings)),
        final_norm=wide(model.backbone.norm_f.weight),
        head=wide(matrix_of(model.lm_head)),
    )


@pytest.mark.parametrize(
    ("pattern", "bits", "changes"),
    [
        ("ME*E", 8, {}),
        ("ME*E", 4, {}),
        ("M*EM", None, {"moe_latent_size": None}),
        ("ME", 8, {"n_shared_experts": None}),
    ],
    ids=["8bit", "4bit", "bf16-no-latent", "no-shared"],
)
def test_as_close_to_fp32_as_the_reference(pattern: str, bits: int | None, changes: dict[str, Any]) -> None:
    model = reference(pattern, mx.bfloat16, bits, **changes)
    stage = fused_stage(model)
    assert (stage.unfused, stage.fused_layers) == ({}, len(pattern))
    want = logits(exact_stage(model), "reference")
    fused, plain = (mx.linalg.norm(logits(stage, dialect) - want).item() for dialect in ("host", "reference"))
    assert fused < 1.2 * plain


def test_a_sequence_alone_equals_itself_in_a_batch() -> None:
    stage = fused_stage(reference("ME*E", mx.bfloat16, 8))
    together = logits(stage, "host")
    alone = logits(stage, "host", PROMPTS[1:], [tokens[1:] for tokens in FORCED])
    assert mx.array_equal(alone[:, 0], together[:, 1])


def test_what_one_sequence_needs_is_compiled_when_a_stage_is_there() -> None:
    stage = fused_stage(reference("M*E-", mx.bfloat16, 8, hidden_size=96))
    compiled = host._library.cache_info().currsize
    logits(stage, "host", PROMPTS[:1], [tokens[:1] for tokens in FORCED])
    assert host._library.cache_info().currsize == compiled
    assert stage.fallbacks.total() == len(FORCED)  # of the plain layer, and not of what made ready


@pytest.mark.parametrize(
    ("pattern", "dtype", "bits", "changes", "layer", "why"),
    [
        ("M", mx.float32, None, {}, 0, "float32"),
        ("E-", mx.bfloat16, None, {}, 1, "plain MLP"),
        ("E", mx.bfloat16, 8, {"n_group": 2, "topk_group": 1}, 0, "1 of 2 groups"),
        ("M", mx.bfloat16, 3, {}, 0, "in_proj: its format is affine, 3 bits"),
        ("M", mx.bfloat16, 8, {"ssm_state_size": 16}, 0, "state size 16"),
    ],
)
def test_what_stays_with_the_reference(
    pattern: str, dtype: mx.Dtype, bits: int | None, changes: dict[str, Any], layer: int, why: str
) -> None:
    stage = fused_stage(reference(pattern, dtype, bits, **changes))
    assert why in stage.unfused[layer]
    got, want = logits(stage, "host"), logits(stage, "reference")
    assert mx.linalg.norm(got - want) < 2e-2 * mx.linalg.norm(want)  # the head is fused where it can be


def test_a_kernel_that_is_wrong_here_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reference("ME", mx.bfloat16, 8)
    real = mamba.mamba_decode

    def wrong(x_TD: mx.array, *rest: Any) -> tuple[mx.array, ...]:
        y_TD, *after = real(x_TD, *rest)
        return -y_TD, *after

    monkeypatch.setattr(mamba, "mamba_decode", wrong)
    stage = fused_stage(model)
    assert "differs from the reference" in stage.unfused[0]
    assert stage.fused_layers == 1
    got, want = logits(stage, "host"), logits(stage, "reference")
    assert mx.linalg.norm(got - want) < 2e-2 * mx.linalg.norm(want)


def test_a_head_that_is_wrong_here_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reference("E", mx.bfloat16, 8)
    assert fused_stage(model)._finish is not None
    real = fused.FusedHead.__call__
    monkeypatch.setattr(fused.FusedHead, "__call__", lambda head, x_SD: -real(head, x_SD))
    stage = fused_stage(model)
    assert stage._finish is None
    got, want = logits(stage, "host"), logits(stage, "reference")
    assert mx.linalg.norm(got - want) < 2e-2 * mx.linalg.norm(want)
