"""The operations of a mixture of experts.

Shapes: S sequences of one position each, D hidden size, K experts chosen for each.
"""

from collections.abc import Iterator, Sequence

import mlx.core as mx

from kernels import moe
from kernels.matvec.launch import Output, combine, most_vectors, on_tiles, prepare, project
from kernels.matvec.weight import depth_of
from kernels.moe import slices
from kernels.moe.decode import choose_beside, experts_down, experts_up
from worker.cases.case import Case, Normed, at, few, product_case, random_rows
from worker.model.blocks import Weights, array_in, matrix_in
from worker.model.fused import FusedMoE
from worker.model.matrix import Matrix
from worker.spec import MoESpec


def expert_cases(
    layer: MoESpec, forms: Sequence[FusedMoE], weights: Sequence[Weights], x_SD: mx.array, normed: Normed
) -> Iterator[Case]:
    """Every launch of a layer, and the expert path in one launch beside the two that are the default."""
    batch, routing, first = x_SD.shape[0], forms[0].routing, weights[0]
    router = Matrix(array_in(first, "gate_weight"))
    gates = [array_in(w, "gate_weight").astype(mx.float32).T for w in weights]
    mx.eval(gates)
    latent, shared = layer.latent_size is not None, layer.shared_size is not None

    def enter(turn: int, x: mx.array) -> mx.array:
        w = at(weights, turn)
        z = normed(w, x)
        logits = z.astype(mx.float32) @ at(gates, turn)
        return matrix_in(w, "latent_in")(z) + logits[:, :1].astype(x.dtype) if latent else logits

    def enter_fused(turn: int, x: mx.array) -> mx.array:
        m = at(forms, turn).layer
        outputs = [Output(m.router, dtype=mx.float32), *([Output(m.latent_in)] if m.latent_in else [])]
        return project(x, outputs, m.gain)[-1]

    inner = [router, *([matrix_in(first, "latent_in")] if latent else [])]
    yield product_case("norm, router" + (", latent in" if latent else ""), inner, x_SD, enter, enter_fused)
    logits = mx.random.normal((batch, layer.num_experts), key=mx.random.key(3))
    if shared:

        def choice(turn: int, x: mx.array) -> mx.array:
            w = at(weights, turn)
            scores = mx.sigmoid(logits)
            indices = mx.argsort(-(scores + array_in(w, "correction_bias")), axis=-1)[:, : layer.top_k]
            chosen = mx.take_along_axis(scores, indices, axis=-1)
            chosen = chosen / (chosen.sum(axis=-1, keepdims=True) + 1e-20) * layer.scaling
            return moe.relu2(matrix_in(w, "shared_up")(normed(w, x))) + chosen[:, :1].astype(x.dtype)

        def choice_fused(turn: int, x: mx.array) -> mx.array:
            m = at(forms, turn).layer
            assert m.shared_up is not None
            norm = m.gain
            if on_tiles(batch, m.router, m.latent_in, m.shared_up):
                x, norm = prepare(x, m.gain)
            return choose_beside(logits, m.correction, routing, x, Output(m.shared_up, relu2=True), norm)[-1]

        yield product_case("choice; norm, shared up", [matrix_in(first, "shared_up")], x_SD, choice, choice_fused)
    choices, padded = choices_of(layer, batch), choices_of(layer, batch, routing.stride)
    scores = mx.ones((batch, routing.stride), mx.float32) / layer.top_k
    narrow = random_rows(batch, layer.latent_size or x_SD.shape[1])
    up, down = matrix_in(first, "experts_up"), matrix_in(first, "experts_down")

    def up_stock(turn: int, x: mx.array) -> mx.array:
        y = matrix_in(at(weights, turn), "experts_up").gather(x[:, None, None, :], at(choices, turn))
        return moe.relu2(y)

    def up_fused(turn: int, x: mx.array) -> mx.array:
        gain = None if latent else at(forms, turn).layer.gain
        return experts_up(x, at(forms, turn).layer.up, at(padded, turn), layer.top_k, gain)

    shape = f"{layer.top_k} of {layer.num_experts} x {{}} -> {{}}"
    nbytes = chosen_bytes(layer, first, choices, "experts_up")
    yield Case("experts up", shape.format(depth_of(up), depth_of(down)), nbytes, narrow, up_stock, up_fused)

    def down_stock(turn: int, hidden: mx.array) -> mx.array:
        y = matrix_in(at(weights, turn), "experts_down").gather(hidden[:, :, None], at(choices, turn))
        return (y.squeeze(-2) * scores[:, : layer.top_k, None]).sum(axis=-2).astype(hidden.dtype)

    def down_fused(turn: int, hidden: mx.array) -> mx.array:
        return experts_down(hidden, at(forms, turn).layer.down, at(padded, turn), scores)

    nbytes = chosen_bytes(layer, first, choices, "experts_down")
    hidden = random_rows(batch, layer.top_k, depth_of(down))
    yield Case("experts down", shape.format(depth_of(down), depth_of(up)), nbytes, hidden, down_stock, down_fused)

    def both_stock(turn: int, x: mx.array) -> mx.array:
        w = at(weights, turn)
        ups, downs = matrix_in(w, "experts_up"), matrix_in(w, "experts_down")
        return moe.experts(x, at(choices, turn), scores[:, : layer.top_k], ups, downs)

    yield Case(
        "experts, two launches",
        shape.format(depth_of(up), depth_of(up)),
        chosen_bytes(layer, first, choices, "experts_up", "experts_down"),
        narrow,
        both_stock,
        lambda turn, x: down_fused(turn, up_fused(turn, x)),
    )
    if slices.why_not(up, down) is None:

        def by_slices(turn: int, x: mx.array) -> mx.array:
            m = at(forms, turn).layer
            return slices.experts_by_slices(x, m.up, m.down, at(padded, turn), scores, layer.top_k)

        nbytes = chosen_bytes(layer, first, choices, "experts_up", "experts_down")
        wide = shape.format(depth_of(up), depth_of(up))
        yield Case("experts, one launch and a sum", wide, nbytes, narrow, both_stock, by_slices)
    ends = [name for name, there in (("latent_out", latent), ("shared_down", shared)) if there]
    if ends:
        inputs = [random_rows(batch, depth_of(matrix_in(first, name))) for name in ends]

        def leave(turn: int, x: mx.array) -> mx.array:
            w = at(weights, turn)
            for name, y in zip(ends, inputs, strict=True):
                x = x + matrix_in(w, name)(y)
            return x

        def leave_fused(turn: int, x: mx.array) -> mx.array:
            w = at(weights, turn)
            return combine([(y, matrix_in(w, name)) for name, y in zip(ends, inputs, strict=True)], [x])

        matrices = [matrix_in(first, name) for name in ends]
        total = sum(matrix.nbytes for matrix in matrices)
        depths = " + ".join(str(depth_of(matrix)) for matrix in matrices)
        name = ", ".join(name.replace("_", " ") for name in ends) + ", residual"
        yield Case(
            name, f"{depths} -> {x_SD.shape[1]}", total, x_SD, leave, few(x_SD, leave_fused, most_vectors(*matrices))
        )


def choices_of(layer: MoESpec, batch: int, stride: int | None = None) -> list[mx.array]:
    """Experts drawn at random, all different for one token: [S, K], or [S, stride] with zeros behind."""
    drawn = mx.random.normal((32, batch, layer.num_experts), key=mx.random.key(7))
    chosen = mx.argsort(drawn, axis=-1)[..., : layer.top_k].astype(mx.uint32)
    chosen = mx.pad(chosen, [(0, 0), (0, 0), (0, max(0, (stride or 0) - layer.top_k))])
    mx.eval(chosen)
    return list(chosen)


def chosen_bytes(layer: MoESpec, weights: Weights, choices: Sequence[mx.array], *names: str) -> int:
    """Bytes of the experts that a step reads, each once, however many tokens chose it."""
    distinct = sum(len(set(choice[:, : layer.top_k].flatten().tolist())) for choice in choices) / len(choices)  # type: ignore[arg-type]
    return round(sum(matrix_in(weights, name).nbytes for name in names) * distinct / layer.num_experts)
