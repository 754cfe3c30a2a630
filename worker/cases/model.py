"""The operations that a decode step of a model consists of: those of the first layer of each kind, and the head."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mlx.core as mx

from kernels.matvec.weight import why_not
from worker.cases.attention import attention_cases
from worker.cases.case import Case, at, copies_of, few, fresh_step, product_case, random_rows, state_bytes
from worker.cases.experts import choices_of, chosen_bytes, expert_cases
from worker.cases.mamba import mamba_cases
from worker.checkpoint.quantization import Quantization
from worker.checkpoint.tensors import PREFIXES, head_parts, layer_parts
from worker.model.blocks import Attention, Block, Mamba, MoE, Weights, array_in
from worker.model.fused import Fused, FusedAttention, FusedMamba, FusedMoE, fuse, fuse_head
from worker.model.matrix import Matrix
from worker.model.random_model import random_part
from worker.spec import AttentionSpec, MambaSpec, Mixer, ModelSpec, MoESpec


def cases(spec: ModelSpec, to: Quantization, batch: int) -> Iterator[Case]:
    """The operations of the first layer of each kind, and of the head, for `batch` sequences."""
    kinds: dict[type, int] = {}
    for index, layer in enumerate(spec.layers):
        kinds.setdefault(type(layer), index)
    for kind, index in kinds.items():
        layer = spec.layers[index]
        if kind in (MambaSpec, AttentionSpec, MoESpec):
            yield from _layer(spec, layer, _LayerWeights(spec, index, to), batch)
    yield _head(spec, to, batch)


class _LayerWeights:
    """Draws weights of one layer."""

    def __init__(self, spec: ModelSpec, index: int, to: Quantization) -> None:
        self._parts = list(layer_parts(spec, index, PREFIXES[0]))
        self._to, self._seed = to, 0

    def several(self) -> list[dict[str, Matrix | mx.array]]:
        """Layers whose dense matrices no cache holds; stacks of experts are large, so two of them serve all."""
        stacks = [part for part in self._parts if part.kind == "experts"]
        others = [part for part in self._parts if part.kind != "experts"]
        first = self._drawn(others)
        size = min(made.nbytes for made in first.values() if isinstance(made, Matrix))
        rest = [self._drawn(others) for _ in range(copies_of(size, at_most=12) - 1)]
        experts = [self._drawn(stacks) for _ in range(2)]
        return [{**layer, **experts[number % 2]} for number, layer in enumerate([first, *rest])]

    def _drawn(self, parts: Sequence[Any]) -> dict[str, Matrix | mx.array]:
        self._seed += len(parts)
        return {part.key: random_part(part, self._to, self._seed + at) for at, part in enumerate(parts)}


def _layer(spec: ModelSpec, layer: Mixer, draw: _LayerWeights, batch: int) -> Iterator[Case]:
    eps, weights = spec.norm_eps, draw.several()
    kind: Callable[..., Block]
    name, kind = {
        MambaSpec: ("Mamba layer", lambda w: Mamba(layer, eps, w, 0)),  # type: ignore[arg-type]
        AttentionSpec: ("attention layer", lambda w: Attention(layer, w, 0)),  # type: ignore[arg-type]
        MoESpec: ("expert layer", lambda w: MoE(layer, w)),  # type: ignore[arg-type]
    }[type(layer)]
    blocks = [kind(w) for w in weights]
    forms = [fuse(layer, eps, w, 0, block) for w, block in zip(weights, blocks, strict=True)]
    fused = [form for form in forms if not isinstance(form, str)]
    steps = [fresh_step(layer, batch) for _ in range(copies_of(state_bytes(layer, batch)))]
    x_SD = random_rows(batch, spec.hidden_size)

    def plain(turn: int, x_SD: mx.array) -> mx.array:
        norm_D = array_in(at(weights, turn), "norm")
        return x_SD + at(blocks, turn)(mx.fast.rms_norm(x_SD, norm_D, eps), at(steps, turn))

    def whole(turn: int, x_SD: mx.array) -> mx.array:
        form = at(fused, turn)
        return form(x_SD) if isinstance(form, FusedMoE) else form(x_SD, at(steps, turn))

    if fused:
        yield from _pieces(layer, fused, blocks, weights, x_SD, eps)
    nbytes = _dense_bytes(weights[0]) + state_bytes(layer, batch)
    if isinstance(layer, MoESpec):
        nbytes += chosen_bytes(layer, weights[0], choices_of(layer, batch), "experts_up", "experts_down")
    how = few(x_SD, whole, fused[0].most_rows) if fused else str(forms[0])
    yield Case(name, f"{spec.hidden_size} wide", nbytes, x_SD, plain, how)


def _dense_bytes(weights: Weights) -> int:
    return sum(
        made.nbytes for key, made in weights.items() if isinstance(made, Matrix) and not key.startswith("experts")
    )


def _pieces(
    layer: Mixer,
    forms: Sequence[Fused],
    blocks: Sequence[Block],
    weights: Sequence[Weights],
    x_SD: mx.array,
    eps: float,
) -> Iterator[Case]:
    normed = lambda w, x: mx.fast.rms_norm(x, array_in(w, "norm"), eps)  # noqa: E731
    match layer:
        case MambaSpec():
            of_mamba = [form for form in forms if isinstance(form, FusedMamba)]
            parameters = [block.parameters for block in blocks if isinstance(block, Mamba)]
            yield from mamba_cases(layer, of_mamba, parameters, weights, x_SD, normed)
        case MoESpec():
            yield from expert_cases(
                layer, [form for form in forms if isinstance(form, FusedMoE)], weights, x_SD, normed
            )
        case _:
            of_attention = [form for form in forms if isinstance(form, FusedAttention)]
            yield from attention_cases(of_attention, weights, x_SD, normed)


def _head(spec: ModelSpec, to: Quantization, batch: int) -> Case:
    norm, head = (random_part(part, to, seed) for seed, part in enumerate(head_parts(spec, PREFIXES[0])))
    assert isinstance(norm, mx.array)
    assert isinstance(head, Matrix)
    form = fuse_head(head, norm, spec.norm_eps)
    x_SD = random_rows(batch, spec.hidden_size)

    def plain(_: int, x: mx.array) -> mx.array:
        return head(mx.fast.rms_norm(x, norm, spec.norm_eps))

    if form is None:
        reason = f"head: {why_not(head)}"
        return Case("norm, head", f"{spec.hidden_size} -> {spec.vocab_size}", head.nbytes, x_SD, plain, reason)
    return product_case("norm, head", [head], x_SD, plain, lambda _, x: form(x))
