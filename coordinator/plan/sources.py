"""Where a model's sizes come from: a preset's shapes, the safetensors headers of a checkpoint, or its config alone."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from typing import Any

import msgspec

from coordinator.plan.cost import ModelCost, Weight, embedding_piece, head_piece, layer_piece, weight
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.config import read_spec
from worker.checkpoint.hub import describe
from worker.checkpoint.quantization import Quantization, parse_quantization
from worker.checkpoint.tensors import PREFIXES, Located, Part, embedding_part, head_parts, layer_parts
from worker.presets import preset
from worker.spec import ModelSpec

PRESETS = ("nano", "super", "ultra")
PRESET_PRECISION = "8:32"
UNPACKED = "none"
SINGLE = ("A_log", "correction_bias")  # kept in float32 by every converter
ITEM_BYTES = {"BF16": 2, "F16": 2, "F32": 4, "bfloat16": 2, "float16": 2, "float32": 4}

Parts = Iterable[tuple[int | None, Part, int]]  # layer (None: embedding and head), part, bytes


def model_cost(model: str, quantize: str | None) -> ModelCost:
    """The cost of a preset, a directory or a hub id; `quantize` is what `--quantize` says.

    Presets are packed 8:32 unless it says something else, checkpoints as they are stored. Raises CheckpointError or
    ConfigError.
    """
    packing = None if quantize in (None, UNPACKED) else parse_quantization(quantize)
    if model in PRESETS:
        if quantize is None:
            packing = parse_quantization(PRESET_PRECISION)
        return preset_cost(model, packing)
    return checkpoint_cost(describe(model, packing), packing, name=model)


def preset_cost(name: str, packing: Quantization | None) -> ModelCost:
    """The cost of a preset in bfloat16, packed if asked."""
    spec = read_spec(preset(name)["config"], f"preset {name}")

    def parts() -> Iterator[tuple[int | None, Part, int]]:
        for index, part in _parts_of(spec):
            yield index, part, _bytes(part, packing, _item_bytes(part, 2))

    precision = str(packing) if packing else "bfloat16"
    return _cost(spec, parts(), name=name, precision=precision, origin="published shapes", item_bytes=2)


def checkpoint_cost(checkpoint: Checkpoint, packing: Quantization | None, *, name: str) -> ModelCost:
    """The cost of a checkpoint: exact from its safetensors headers, or, for a hub id whose weights are not here yet,
    from what `config.json` says."""
    shards = checkpoint.shards
    here = all((checkpoint.directory / file).exists() for file in set(shards.files.values()))
    nbytes = _stored(checkpoint, packing) if here else _declared(checkpoint, packing)
    located = list(checkpoint.parts(0, len(checkpoint.spec.layers)))
    norm = next(each for _, each in located if each.part.key == "final_norm")
    item_bytes = ITEM_BYTES[shards.info(norm.weights[0]).dtype] if here else _config_item_bytes(checkpoint.config)
    return _cost(
        checkpoint.spec,
        ((index, each.part, nbytes(each)) for index, each in located),
        name=name,
        precision=str(packing) if packing else "as stored",
        origin="safetensors headers"
        if here
        else f"config.json ({ASSUMED.bits}:{ASSUMED.group_size} where it is silent)",
        item_bytes=item_bytes,
    )


def _stored(checkpoint: Checkpoint, packing: Quantization | None) -> Callable[[Located], int]:
    shards = checkpoint.shards

    def nbytes(located: Located) -> int:
        if not _packs(located.part, packing):
            return sum(shards.info(name).nbytes for name in located.names)
        item = ITEM_BYTES[shards.info(located.weights[0]).dtype]
        bias = shards.info(located.bias).nbytes if located.bias else 0
        return _bytes(located.part, packing, item) - (located.part.shape[-2] * item if bias else 0) + bias

    return nbytes


class _Format(msgspec.Struct, frozen=True):
    """What config.json's `quantization` says of all modules, or of one."""

    bits: int
    group_size: int
    mode: str = "affine"


ASSUMED = _Format(8, 32)


def _declared(checkpoint: Checkpoint, packing: Quantization | None) -> Callable[[Located], int]:
    """By name: what the index says is packed, in the format that `quantization` gives to the module or to all."""
    declared: dict[str, Any] = checkpoint.config.get("quantization") or {}
    item = _config_item_bytes(checkpoint.config)

    def nbytes(located: Located) -> int:
        part = located.part
        if located.scales is None:
            return _bytes(part, packing, _item_bytes(part, item))
        entry = declared.get(part.path)
        try:
            said = msgspec.convert(declared if entry in (None, True, False) else entry, _Format)
        except msgspec.ValidationError:
            said = ASSUMED  # the headers will say, and only they are believed when the model is loaded
        return _bytes(part, Quantization(said.bits, said.group_size, said.mode), item)

    return nbytes


def _cost(spec: ModelSpec, parts: Parts, *, name: str, precision: str, origin: str, item_bytes: int) -> ModelCost:
    layers: list[list[Weight]] = [[] for _ in spec.layers]
    ends: list[Weight] = []
    for index, part, nbytes in parts:
        (ends if index is None else layers[index]).append(weight(part, nbytes, item_bytes))
    return ModelCost(
        name=name,
        precision=precision,
        origin=origin,
        item_bytes=item_bytes,
        spec=spec,
        embedding=embedding_piece(next(each for each in ends if each.part.key == "embedding")),
        layers=tuple(
            layer_piece(layer, weights, item_bytes) for layer, weights in zip(spec.layers, layers, strict=True)
        ),
        head=head_piece([each for each in ends if each.part.key != "embedding"]),
    )


def _parts_of(spec: ModelSpec) -> Iterator[tuple[int | None, Part]]:
    prefix = PREFIXES[0]
    yield None, embedding_part(spec, prefix)
    for index in range(len(spec.layers)):
        for part in layer_parts(spec, index, prefix):
            yield index, part
    for part in head_parts(spec, prefix):
        yield None, part


def _bytes(part: Part, packing: Quantization | None, item_bytes: int) -> int:
    weights = prod(part.shape)
    bias = part.shape[-2] * item_bytes if part.bias else 0
    if packing is None or not _packs(part, packing):
        return weights * item_bytes + bias
    return packing.packed_bytes(weights, item_bytes) + bias


def _packs(part: Part, packing: Quantization | None) -> bool:
    """Whether `--quantize` packs the part: matrices whose rows are whole groups, as `worker.model.weights` does it."""
    return packing is not None and part.kind in ("matrix", "experts") and part.shape[-1] % packing.group_size == 0


def _item_bytes(part: Part, item_bytes: int) -> int:
    return 4 if part.key in SINGLE else item_bytes


def _config_item_bytes(config: Mapping[str, Any]) -> int:
    return ITEM_BYTES.get(str(config.get("torch_dtype") or config.get("dtype")), 2)
