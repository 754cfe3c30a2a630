"""The weights of one stage, from a checkpoint into MLX arrays.

Shapes: D hidden, E experts, L latent (or hidden), F expert intermediate, C convolution channels, K its width, H Mamba
heads, I Mamba inner, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx

from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.quantization import Quantization
from worker.checkpoint.shards import Shards
from worker.checkpoint.tensors import Located
from worker.model.matrix import Matrix

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class StageWeights:
    """A stage's weights.

    A layer's keys, matrices with an `M` behind, `?` where the spec says so:
    all: norm [D].
    `M`: in_projM, conv_weight [C, K], conv_bias [C]?, A_log [H], D [H], dt_bias [H], gate_norm [I], out_projM.
    `*`: q_projM, k_projM, v_projM, o_projM. `-`: up_projM, down_projM.
    `E`: gate_weight [E, D] (never quantised), correction_bias [E], experts_upM [E, F, L], experts_downM [E, L, F],
    shared_upM?, shared_downM?, latent_inM?, latent_outM?.
    `embedding` and `head` are [V, D]; they and `final_norm` [D] are None on a stage that does not own them.
    """

    layers: list[dict[str, mx.array | Matrix]]
    embedding: Matrix | None
    final_norm: mx.array | None
    head: Matrix | None


def load_stage(
    checkpoint: Checkpoint,
    first: int,
    end: int,
    *,
    quantize: Quantization | None = None,
    progress: Progress = lambda loaded, total: None,
) -> StageWeights:
    """Layers [first, end), with the embedding if the first one is among them, with norm and head if the last one is.

    All of it is in memory when this returns, and no other tensor is read. Shapes and dtypes are checked before that;
    dtypes stay as stored. `quantize` packs what mlx-lm's `quantize_model` would pack, one matrix after the other.
    `progress` is called with the bytes read so far and in all, first with 0. Raises CheckpointError, or ConfigError if
    `quantize` meets a checkpoint that is quantised already.
    """
    checkpoint.check_names(quantize)
    parts = list(checkpoint.parts(first, end))
    packings = [checkpoint.packing(located) for _, located in parts]
    sizes = [sum(checkpoint.shards.info(name).nbytes for name in located.names) for _, located in parts]
    reader = _Reader(checkpoint.shards, quantize)
    layers: list[dict[str, mx.array | Matrix]] = [{} for _ in range(first, end)]
    outside: dict[str, Matrix] = {}
    final_norm: mx.array | None = None
    loaded = 0
    progress(loaded, sum(sizes))
    for (index, located), packing, size in zip(parts, packings, sizes, strict=True):
        is_array = located.part.kind in ("array", "conv")
        weight = reader.array(located) if is_array else reader.matrix(located, packing)
        if index is not None:
            layers[index - first][located.part.key] = weight
        elif isinstance(weight, Matrix):
            outside[located.part.key] = weight
        else:
            final_norm = weight
        loaded += size
        progress(loaded, sum(sizes))
    return StageWeights(
        layers=layers,
        embedding=outside.get("embedding"),
        final_norm=final_norm,
        head=outside.get("head"),
    )


class _Reader:
    """Reads parts; what it returns is evaluated."""

    def __init__(self, shards: Shards, quantize: Quantization | None) -> None:
        self.shards = shards
        self.quantize = quantize
        self.files: dict[Path, dict[str, mx.array]] = {}

    def array(self, located: Located) -> mx.array:
        """A plain array; the convolution loses its axis of size 1, which is the last one in MLX and not in torch."""
        array = self.take(located.weights[0]).reshape(located.part.shape)
        mx.eval(array)
        return array

    def matrix(self, located: Located, packing: Quantization | None) -> Matrix:
        """A matrix as stored, or packed if it is to be and can be."""
        scales = biases = None
        if located.scales is not None:
            weight, scales = self.take(located.weights[0]), self.take(located.scales)
            biases = self.take(located.biases) if located.biases else None
        elif self.quantize and located.part.shape[-1] % self.quantize.group_size == 0:
            packing = self.quantize
            weight, scales, *rest = self.pack(located.weights, packing)
            biases = rest[0] if rest else None
        else:
            weight = _stack([self.take(name) for name in located.weights])
        bias = self.take(located.bias) if located.bias else None
        mx.eval([array for array in (weight, scales, biases, bias) if array is not None])
        # without this the dense originals stay in MLX's cache
        mx.clear_cache()
        return Matrix(weight, scales, biases, packing, bias)

    def pack(self, names: tuple[str, ...], to: Quantization) -> list[mx.array]:
        """Packed weight, scales and, in affine mode, biases; experts one by one, so that few dense ones are alive."""
        packed: list[tuple[mx.array, ...]] = []
        for name in names:
            packed.append(mx.quantize(self.take(name), to.group_size, to.bits, to.mode))
            mx.eval(packed[-1])
        return [_stack(arrays) for arrays in zip(*packed, strict=True)]

    def take(self, name: str) -> mx.array:
        """The tensor, not read yet; each can be taken once, so that nothing here keeps it alive."""
        path = self.shards.path(name)
        if path not in self.files:
            # reads the header only
            arrays = mx.load(str(path))
            assert isinstance(arrays, dict)
            self.files[path] = arrays
        return self.files[path].pop(name)


def _stack(arrays: Sequence[mx.array]) -> mx.array:
    return arrays[0] if len(arrays) == 1 else mx.stack(list(arrays))
