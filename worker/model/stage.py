"""A stage: any contiguous run of a model's layers, with the embedding and the head where it owns them.

Shapes: T rows of a step, D hidden size, S rows that sample, V vocabulary.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import assert_never

import mlx.core as mx

from worker.model.blocks import MLP, Attention, Block, Mamba, MoE, Weights
from worker.model.decode import DecodePath, Layer, checked_head
from worker.model.fused import fuse, fuse_head
from worker.model.matrix import Matrix
from worker.model.state import StageState
from worker.spec import AttentionSpec, MambaSpec, MLPSpec, ModelSpec, MoESpec

PIECE = 2  # layers; MLX works on those handed over while the graph of the next ones is built


class Stage:
    """Layers [first, end) of `spec`. The first stage takes token ids, the last one gives logits, others hidden states.

    `layer_weights` has one mapping a layer, `norm` [D] and what its kind needs; the norms' dtype is the dtype of the
    activations. `embedding` [V, D] belongs to the first stage, `final_norm` [D] and `head` [V, D] to the last one.
    Stages joined in a row give the bits of one stage over the same layers: nothing is computed across a layer's edge.
    """

    def __init__(
        self,
        spec: ModelSpec,
        first: int,
        end: int,
        layer_weights: Sequence[Weights],
        *,
        embedding: Matrix | None = None,
        final_norm: mx.array | None = None,
        head: Matrix | None = None,
    ) -> None:
        self._layers = spec.layers[first:end]
        assert len(layer_weights) == len(self._layers) > 0
        assert (embedding is not None) == (first == 0)
        assert (head is not None) == (final_norm is not None) == (end == len(spec.layers))
        self._eps, self._vocab_size = spec.norm_eps, spec.vocab_size
        self._embedding, self._final_norm, self._head = embedding, final_norm, head
        self._norms: list[mx.array] = []
        self._blocks: list[Block] = []
        decode: list[Layer] = []
        mambas = attentions = 0
        for layer, weights in zip(self._layers, layer_weights, strict=True):
            norm_D = weights["norm"]
            assert isinstance(norm_D, mx.array)
            self._norms.append(norm_D)
            match layer:
                case MambaSpec():
                    self._blocks.append(Mamba(layer, spec.norm_eps, weights, mambas))
                    mambas += 1
                case AttentionSpec():
                    self._blocks.append(Attention(layer, weights, attentions))
                    attentions += 1
                case MoESpec():
                    self._blocks.append(MoE(layer, weights))
                case MLPSpec():
                    up, down = weights["up_proj"], weights["down_proj"]
                    assert isinstance(up, Matrix)
                    assert isinstance(down, Matrix)
                    self._blocks.append(MLP(up, down))
                case _:
                    assert_never(layer)
            block = self._blocks[-1]
            form = fuse(layer, spec.norm_eps, weights, mambas - 1, block)
            decode.append(Layer(first + len(decode), norm_D, block, form))
        mx.eval(self.arrays)
        self._decode = DecodePath(decode, spec.norm_eps, self.new_state)
        fused_head = None if head is None or final_norm is None else fuse_head(head, final_norm, spec.norm_eps)
        self._finish = checked_head(fused_head, self._logits)

    @property
    def dtype(self) -> mx.Dtype:
        """Dtype of the activations."""
        return self._norms[0].dtype

    @property
    def arrays(self) -> list[mx.array]:
        """Every array that the stage holds."""
        ends = [a for matrix in (self._embedding, self._head) if matrix is not None for a in matrix.arrays]
        if self._final_norm is not None:
            ends.append(self._final_norm)
        return [*ends, *self._norms, *(a for block in self._blocks for a in block.arrays)]

    @property
    def nbytes(self) -> int:
        """Bytes of all weights."""
        return sum(a.nbytes for a in self.arrays)

    def read_bytes(self, rows: int) -> float:
        """Weight bytes that a decode step of so many rows reads.

        Of the routed experts those that it uses: the mean if each row uses some of equally likely ones. Of the
        embedding next to nothing.
        """
        looked_up = sum(a.nbytes for a in self._embedding.arrays) if self._embedding is not None else 0
        unused = sum(
            block.expert_bytes * (1 - layer.top_k / layer.num_experts) ** rows
            for layer, block in zip(self._layers, self._blocks, strict=True)
            if isinstance(layer, MoESpec) and isinstance(block, MoE)
        )
        return self.nbytes - looked_up - unused

    @property
    def pattern(self) -> str:
        """One character a layer, for example `MEM*E`."""
        return "".join(layer.__struct_config__.tag for layer in self._layers)  # type: ignore[misc]

    @property
    def fused_layers(self) -> int:
        """How many layers decode through fused kernels."""
        return self._decode.fused_layers

    @property
    def fused_rows(self) -> int:
        """The most rows of a step that the fused kernels take, 0 if there are none."""
        return self._decode.most_rows

    @property
    def unfused(self) -> dict[int, str]:
        """The layers that have no fused form, and why."""
        return self._decode.reasons

    @property
    def fallbacks(self) -> Counter[str]:
        """How often a layer decoded without fused kernels where there are some, by reason."""
        return self._decode.fallbacks

    def new_state(self) -> StageState:
        """An empty state for these layers."""
        return StageState(self._layers, self.dtype)

    def __call__(
        self,
        inputs: mx.array,
        segments: Sequence[tuple[int, int]],
        state: StageState,
        sample: Sequence[int] = (),
        probe: Callable[[int | None, mx.array], None] | None = None,
    ) -> mx.array:
        """Runs one step: builds the graph, and hands plain layers to MLX two at a time. Evaluate the result together
        with `state.pending()`.

        `inputs` are token ids [T] on the first stage, else hidden states [T, D]; `segments` are (request, count) and
        say whose rows they are, in order: T is the sum of the counts. Returns hidden states [T, D], or on the last
        stage logits [S, V] after the last row of each segment in `sample` (indices of segments). With S = 0 nothing
        is computed beyond what the state needs.

        `probe` is called with the hidden states after the embedding (None) and after each layer, with its place here.
        """
        step = state.begin(segments)
        assert inputs.shape[0] == step.spans[-1].end
        x_TD = (inputs if self._embedding is None else self._embedding.rows(inputs)).astype(self.dtype)
        if probe is not None:
            probe(None, x_TD)
        decode = self._decode.takes(step, x_TD.shape[0])
        if decode:
            x_TD = self._decode(x_TD, step, probe)
        else:
            for index, (norm_D, block) in enumerate(zip(self._norms, self._blocks, strict=True)):
                if index and index % PIECE == 0:
                    mx.async_eval(x_TD)
                y_TD = block(mx.fast.rms_norm(x_TD, norm_D, self._eps), step)
                x_TD = x_TD + y_TD.astype(self.dtype)  # a single wider weight widens what comes out
                if probe is not None:
                    probe(index, x_TD)
        if self._head is None:
            return x_TD
        if not sample:
            return mx.zeros((0, self._vocab_size), self.dtype)
        last = [step.spans[index].end - 1 for index in sample]
        x_SD = x_TD if last == list(range(x_TD.shape[0])) else x_TD[mx.array(last)]
        if decode and self._finish is not None and len(last) <= self._finish.most_rows:
            return self._finish(x_SD)
        return self._logits(x_SD)

    def _logits(self, x_SD: mx.array) -> mx.array:
        assert self._head is not None
        return self._head(mx.fast.rms_norm(x_SD, self._final_norm, self._eps))
