"""What each layer of a model costs: bytes held, bytes read, state, arithmetic. Pure.

A decode step is bound by the bytes that it reads, a prompt by arithmetic. A step of `rows` tokens reads every weight
once, and of the routed experts those that it uses: with E experts of which each row takes k, all alike,
E * (1 - (1 - k / E) ** rows) of them.
"""

from math import prod

import msgspec

from worker.checkpoint.tensors import Part
from worker.footprint import GROWTH, STATE_ITEM, Footprint, footprint
from worker.spec import AttentionSpec, MambaSpec, Mixer, ModelSpec, MoESpec

NO_STATE = Footprint(0, 0)
FLOAT32 = 4
# what `worker.model.blocks` holds in float32 for the steps without fused kernels; the fused ones read it as stored
IN_FLOAT32 = ("conv_weight", "A_log", "dt_bias", "gate_weight", "correction_bias")


class Weight(msgspec.Struct, frozen=True):
    """A part of a layer: bytes of it as stored, scales and biases included, and as a worker holds it."""

    part: Part
    nbytes: int
    held: int


def weight(part: Part, nbytes: int, item_bytes: int) -> Weight:
    """The part with `nbytes` as stored, in a model whose activations have `item_bytes` an element."""
    held = nbytes
    if part.key in IN_FLOAT32:
        held = prod(part.shape) * FLOAT32
    elif part.key == "D":
        held = prod(part.shape) * item_bytes
    return Weight(part, nbytes, held)


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A layer (`kind` M, E, * or -), the embedding or the head with the norm before it.

    A step reads `fixed_bytes`, what it uses of `expert_bytes` (each row takes the share `expert_share` of the experts),
    `row_bytes` a row, `sequence_bytes` of Mamba state a sequence, read and written, and `position_bytes` of keys and
    values for every position of every sequence. Arithmetic: `flops` a row, and `position_flops` a row and position.
    """

    kind: str
    parameters: int
    parameters_read: int
    resident_bytes: int
    fixed_bytes: int
    expert_bytes: int = 0
    expert_share: float = 0.0
    row_bytes: int = 0
    sequence_bytes: int = 0
    position_bytes: float = 0.0
    flops: float = 0.0
    position_flops: int = 0
    state: Footprint = NO_STATE

    def step_bytes(self, rows: int, sequences: int, positions: int = 0) -> float:
        """Bytes that a step of `rows` tokens of so many sequences moves, each sequence `positions` long before it."""
        experts = self.expert_bytes * (1 - (1 - self.expert_share) ** rows)
        state = self.sequence_bytes + self.position_bytes * positions
        return self.fixed_bytes + experts + self.row_bytes * rows + state * sequences

    def step_flops(self, rows: int, positions: int = 0) -> float:
        """Floating-point operations of such a step, a multiplication with its addition counted as two."""
        return rows * (self.flops + self.position_flops * positions)


class ModelCost(msgspec.Struct, frozen=True, kw_only=True):
    """A model layer by layer. `precision` says how it is packed, `origin` where the sizes come from; hidden states have
    `item_bytes` an element."""

    name: str
    precision: str
    origin: str
    item_bytes: int
    spec: ModelSpec
    embedding: Piece
    layers: tuple[Piece, ...]
    head: Piece

    def pieces(self, first: int, end: int) -> tuple[Piece, ...]:
        """What the stage of layers [first, end) holds: with the embedding, the head or both at the model's ends."""
        before = (self.embedding,) if first == 0 else ()
        after = (self.head,) if end == len(self.layers) else ()
        return (*before, *self.layers[first:end], *after)

    @property
    def all(self) -> tuple[Piece, ...]:
        """The whole model."""
        return self.pieces(0, len(self.layers))

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(piece.parameters for piece in self.all)

    @property
    def parameters_read(self) -> int:
        """Those that one decoded token reads: of the experts only its own, of the embedding one row."""
        return sum(piece.parameters_read for piece in self.all)

    def hidden_bytes(self, rows: int) -> int:
        """Bytes of the hidden states of so many tokens, which go from stage to stage."""
        return rows * self.spec.hidden_size * self.item_bytes


def layer_piece(layer: Mixer, weights: list[Weight], item_bytes: int) -> Piece:
    """The layer made of these weights."""
    experts = [weight for weight in weights if weight.part.kind == "experts"]
    expert_bytes = sum(weight.nbytes for weight in experts)
    share = layer.top_k / layer.num_experts if isinstance(layer, MoESpec) else 0.0
    parameters = sum(map(_parameters, weights))
    expert_parameters = sum(map(_parameters, experts))
    read = parameters - expert_parameters + round(expert_parameters * share)
    stored = sum(weight.nbytes for weight in weights)
    state = footprint([layer], item_bytes)
    return Piece(
        kind=layer.__struct_config__.tag,  # type: ignore[arg-type]
        parameters=parameters,
        parameters_read=read,
        resident_bytes=sum(weight.held for weight in weights),
        fixed_bytes=stored - expert_bytes,
        expert_bytes=expert_bytes,
        expert_share=share,
        sequence_bytes=_scan_bytes(layer),
        position_bytes=state.growing / GROWTH,
        flops=2 * read + _scan_flops(layer),
        position_flops=4 * layer.num_heads * layer.head_dim if isinstance(layer, AttentionSpec) else 0,
        state=state,
    )


def embedding_piece(weight: Weight) -> Piece:
    """The embedding: each row looks up one of its rows."""
    rows, width = weight.part.shape
    return Piece(
        kind="embedding",
        parameters=_parameters(weight),
        parameters_read=width,
        resident_bytes=weight.nbytes,
        fixed_bytes=0,
        row_bytes=weight.nbytes // rows,
    )


def head_piece(weights: list[Weight]) -> Piece:
    """The last norm and the head."""
    parameters, nbytes = sum(map(_parameters, weights)), sum(weight.nbytes for weight in weights)
    return Piece(
        kind="head",
        parameters=parameters,
        parameters_read=parameters,
        resident_bytes=nbytes,
        fixed_bytes=nbytes,
        flops=2 * parameters,
    )


def _parameters(weight: Weight) -> int:
    part = weight.part
    return prod(part.shape) + (part.shape[-2] if part.bias else 0)


def _scan_bytes(layer: Mixer) -> int:
    """The state of the scan, read and written; the convolution's tail, a hundredth of it, is left out."""
    if not isinstance(layer, MambaSpec):
        return 0
    return 2 * layer.num_heads * layer.head_dim * layer.state_size * STATE_ITEM


def _scan_flops(layer: Mixer) -> int:
    """Per element of the state: decay, input times B added, and C times the state added up."""
    return 6 * layer.num_heads * layer.head_dim * layer.state_size if isinstance(layer, MambaSpec) else 0
