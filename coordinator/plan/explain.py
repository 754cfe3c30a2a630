"""The arithmetic behind a plan, line by line. Pure."""

from collections import Counter
from collections.abc import Iterator

from coordinator.plan.cost import Piece
from coordinator.plan.plan import Plan
from coordinator.size import size

NAMES = {"M": "Mamba", "E": "experts", "*": "attention", "-": "MLP", "embedding": "embedding", "head": "norm and head"}


def explain(plan: Plan) -> Iterator[str]:
    """What each kind of layer costs, how a stage's time comes about, and what a token waits for."""
    model, demand = plan.model, plan.demand
    yield f"{model.name}, {model.precision}, sizes from {model.origin}:"
    for piece, count in Counter(model.all).items():
        yield "  " + _piece(piece, count)
    yield (
        f"  together {model.parameters / 1e9:.2f} B parameters, {model.parameters_read / 1e9:.2f} B of them read by a "
        f"token: {plan.bytes_read_per_token / 1e9:.2f} GB with the state of the scan"
    )
    yield from _experts(plan)
    for number, stage in enumerate(plan.stages):
        machine = stage.machine
        nbytes = plan.stage_bytes(stage) * demand.batch
        layers = sum(piece.kind != "embedding" for piece in plan.pieces(stage))
        seconds = plan.step_seconds(stage)
        yield (
            f"stage {number} on {machine.name}: {size(plan.resident_bytes(stage))} of weights + "
            f"{size(plan.state_bytes(stage))} of state in {size(machine.usable)} usable of {size(machine.memory)}"
        )
        yield (
            f"  {seconds * 1e3:.2f} ms = {size(int(nbytes))} at {machine.read / 1e9:.0f} GB/s "
            f"({machine.read / machine.bandwidth:.1%} of {machine.bandwidth / 1e9:.0f}) + {layers} x "
            f"{machine.layer_seconds * 1e6:.0f} us of launches"
            + _by_arithmetic(seconds - nbytes / machine.read - layers * machine.layer_seconds)
        )
    yield from _rounds(plan)


def _piece(piece: Piece, count: int) -> str:
    state = ""
    if piece.state.constant:
        state = f", state {size(piece.state.constant)} a sequence"
    elif piece.state.growing:
        state = f", keys and values {size(int(piece.position_bytes))} a position"
    return (
        f"{count} x {NAMES[piece.kind]}: {piece.parameters / 1e6:.1f} M parameters in {size(piece.resident_bytes)}; a "
        f"token reads {piece.parameters_read / 1e6:.1f} M in {size(int(piece.step_bytes(1, 1)))}; "
        f"{piece.flops / 1e6:.0f} Mflop a token{state}"
    )


def _experts(plan: Plan) -> Iterator[str]:
    shares = {piece.expert_share for piece in plan.model.layers if piece.expert_share}
    for share in sorted(shares):
        counts = ", ".join(f"{1 - (1 - share) ** batch:.1%} at {batch}" for batch in (1, 2, 4, 8))
        yield f"  of the experts a batch uses 1 - (1 - {share:.4f})^B: {counts}"


def _by_arithmetic(rest: float) -> str:
    return f" + {rest * 1e3:.2f} ms where arithmetic takes longer than the bytes" if rest > 1e-6 else ""


def _rounds(plan: Plan) -> Iterator[str]:
    steps = [plan.step_seconds(stage) for stage in plan.stages]
    hops = plan.hops(plan.demand.batch)
    yield (
        f"one user: {sum(steps) * 1e3:.2f} ms of stages + {sum(hops) * 1e3:.2f} ms of {len(hops)} hops = "
        f"{plan.round_seconds() * 1e3:.2f} ms a token"
        if len(steps) > 1
        else f"one user: {plan.round_seconds() * 1e3:.2f} ms a token"
    )
    yield (
        f"{len(steps)} batches of {plan.demand.batch}: the slowest stage takes {max(steps) * 1e3:.2f} ms, a round "
        f"divided by {len(steps)} batches {plan.round_seconds() / len(steps) * 1e3:.2f} ms: "
        f"{plan.cycle_seconds() * 1e3:.2f} ms a step"
    )
