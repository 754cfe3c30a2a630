"""Random-weight checkpoints in the layout of the real ones: `python -m worker.demo PRESET DIR`.

Every machine writes the same bytes: weights are made of random integers (threefry, drawn on the CPU with explicit keys)
and of single float operations. A packed matrix needs no quantising, since all its bit patterns are weights. What is not
packed is float32 and not bfloat16: on a CPU, where MLX sums bfloat16 products in bfloat16, other engines could not be
compared with otherwise.

Shapes: D in, N out, E experts, G groups of D, W 32-bit words of D.
"""

import json
import math
import os
import shutil
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx

from worker.checkpoint.config import read_spec
from worker.checkpoint.quantization import Quantization, parse_quantization
from worker.checkpoint.shards import INDEX
from worker.checkpoint.tensors import PREFIXES, Part, embedding_part, head_parts, layer_parts
from worker.errors import ConfigError, UserError
from worker.presets import preset as read_preset
from worker.spec import ModelSpec

PRINTABLE = range(0x20, 0x7F)  # the bytes, and so the tokens, that the model may say
STEADY = 1.0  # hidden value that no layer changes, see `_pack`
SILENCE = 4.0  # head weight on it of the tokens that are never said
NORMS = ("norm", "gate_norm", "final_norm", "D")
LEAVE_WITH_PARENT = "--leave-with-parent"
RESIDUAL = ("out_proj", "o_proj", "down_proj", "shared_down", "latent_out")


def write_checkpoint(preset: str, directory: Path) -> None:
    """Writes config.json, model.safetensors and its index into `directory`.

    Raises ConfigError if there is no such preset or the files cannot be written.
    """
    settings = read_preset(preset)
    if "quantize" not in settings:
        raise ConfigError(f"preset {preset!r} is for `stageline bench decode --preset {preset}`, not for a checkpoint")
    config: dict[str, Any] = settings["config"]
    to = parse_quantization(settings["quantize"])
    packing = {"group_size": to.group_size, "bits": to.bits, "mode": to.mode}
    spec = read_spec(config, f"preset {preset}")
    with mx.stream(mx.cpu):
        tensors = dict(_tensors(spec, to, mx.random.key(settings["seed"])))
        mx.eval(tensors)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        size = _write_safetensors(directory / "model.safetensors", tensors)
        index = {"metadata": {"total_size": size}, "weight_map": dict.fromkeys(sorted(tensors), "model.safetensors")}
        for name, content in (
            (INDEX, index),
            ("config.json", {**config, "quantization": packing, "quantization_config": packing}),
        ):
            (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write a checkpoint to {directory}: {error.strerror}") from error


def _tensors(spec: ModelSpec, to: Quantization, key: mx.array) -> Iterator[tuple[str, mx.array]]:
    prefix = PREFIXES[0]
    layers = [part for index in range(len(spec.layers)) for part in layer_parts(spec, index, prefix)]
    for part in (embedding_part(spec, prefix), *layers, *head_parts(spec, prefix)):
        key, drawn = mx.random.split(key)
        if part.kind in ("matrix", "experts"):
            packed = _pack(part, to, len(spec.layers), _is_residual(part, spec), drawn)
            yield from zip((f"{part.path}.{name}" for name in ("weight", "scales", "biases")), packed, strict=True)
        else:
            yield part.path, _array(part, drawn)


def _is_residual(part: Part, spec: ModelSpec) -> bool:
    """Whether the matrix writes into the hidden state."""
    return part.key in RESIDUAL or (part.key == "experts_down" and part.shape[1] == spec.hidden_size)


def _pack(
    part: Part, to: Quantization, layers: int, residual: bool, key: mx.array
) -> tuple[mx.array, mx.array, mx.array]:
    """Random words [.., N, W], scales and biases [.., N, G] of an affine matrix with weights around 0.

    The first group of the hidden state is steady: the embedding sets it to STEADY and no layer writes there, so the
    norm before the head leaves it positive. There the head has a large negative weight for every token that is not a
    printable character, and nothing else for them: whatever the state, text is printable ASCII.
    """
    *rows, columns = part.shape
    words_key, scales_key = mx.random.split(key)
    words = _bits((*rows, columns * to.bits // 32), words_key)
    # root mean square of the outputs for inputs of 1; the hidden state stays in range over any number of layers
    gain = {"embedding": math.sqrt(columns), "head": 3.0}.get(part.key, 1 / math.sqrt(layers) if residual else 1.0)
    # a uniform integer from 0 to top has this deviation; a group has one of 8 scales, with this root mean square
    top = 2**to.bits - 1
    deviation = math.sqrt(((top + 1) ** 2 - 1) / 12)
    spread = math.sqrt(sum((1 + step / 8) ** 2 for step in range(8)) / 8)
    steps = _bits((*rows, columns // to.group_size), scales_key) >> 29
    scales = (1 + steps.astype(mx.float32) / 8) * (gain / math.sqrt(columns) / deviation / spread)
    biases = scales * (-top / 2)
    steady = slice(0, 1)
    if part.key == "embedding":
        scales[:, steady] = 0
        biases[:, steady] = STEADY
    elif part.key == "head":
        scales[:, steady] = biases[:, steady] = 0
        for silent in (slice(0, PRINTABLE.start), slice(PRINTABLE.stop, None)):
            scales[silent] = biases[silent] = 0
            biases[silent, steady] = -SILENCE
    elif residual:
        scales[..., : to.group_size, :] = biases[..., : to.group_size, :] = 0
    return words, scales, biases


def _array(part: Part, key: mx.array) -> mx.array:
    """What is not packed."""
    size = part.shape[0]
    along = [index / max(size - 1, 1) for index in range(size)]
    match part.key:
        case "A_log":
            return mx.array([math.log(1 + 15 * x) for x in along], mx.float32)
        case "dt_bias":
            # softplus of it goes from 0.001 to 0.1: memory from a few tokens to a thousand
            return mx.array([math.log(math.expm1(0.001 * 100**x)) for x in along])
        case "correction_bias":
            return _uniform(part.shape, 0.1, key)
        case "conv_weight":
            return _uniform((*part.shape, 1), 1.0, key)
        case "conv_bias":
            return _uniform(part.shape, 0.1, key)
        case "gate_weight":
            return _uniform(part.shape, 2 * math.sqrt(3 / part.shape[1]), key)
        case _:
            assert part.key in NORMS
            return mx.ones(part.shape)


def _uniform(shape: tuple[int, ...], limit: float, key: mx.array) -> mx.array:
    """Float32 in [-limit, limit), from 24 random bits."""
    return ((_bits(shape, key) >> 8).astype(mx.float32) * 2**-23 - 1) * limit


def _bits(shape: tuple[int, ...], key: mx.array) -> mx.array:
    """Random uint32: MLX offers the bits of its generator as keys of two words each."""
    count = math.prod(shape)
    return mx.random.split(key, (count + 1) // 2).reshape(-1)[:count].reshape(shape)


def _write_safetensors(path: Path, tensors: dict[str, mx.array]) -> int:
    """Writes tensors in the order of their names (MLX's own writer takes that of a hash table); returns data bytes."""
    dtypes = {mx.uint32: "U32", mx.float32: "F32"}
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    end = 0
    for name in sorted(tensors):
        array = tensors[name]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": dtypes[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in sorted(tensors):
            file.write(memoryview(tensors[name].reshape(-1).view(mx.uint8)))  # pyright: ignore[reportArgumentType]
    return end


def _leave_with_parent(directory: Path) -> None:
    """Standard input is a pipe that nobody writes to; it ends when the parent does, and the files are for nobody."""
    while os.read(0, 1):
        pass
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(1)


def main(arguments: list[str]) -> int:
    """The command; returns the exit status."""
    try:
        if len(arguments) not in (2, 3) or arguments[2:] not in ([], [LEAVE_WITH_PARENT]):
            raise UserError(f"usage: python -m worker.demo PRESET DIR [{LEAVE_WITH_PARENT}]")
        directory = Path(arguments[1])
        if arguments[2:]:
            threading.Thread(target=_leave_with_parent, args=(directory,), name="parent", daemon=True).start()
        write_checkpoint(arguments[0], directory)
    except UserError as error:
        print(error.message, file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
