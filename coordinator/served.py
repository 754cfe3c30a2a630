"""The model as the HTTP side serves it."""

import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from coordinator.prompt import PromptCodec
from worker.errors import CheckpointError
from worker.protocol import Sampling
from worker.spec import ModelSpec


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model under one name. `context` is in tokens, `created` in Unix seconds; `sampling` are the defaults."""

    name: str
    created: int
    codec: PromptCodec
    context: int
    vocab_size: int
    end_tokens: tuple[int, ...]
    sampling: Sampling


class _GenerationConfig(msgspec.Struct, frozen=True):
    """What `generation_config.json` says about sampling and about the end of a sequence."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    eos_token_id: int | tuple[int, ...] | None = None


def load_served_model(directory: Path, *, name: str, spec: ModelSpec, context: int) -> ServedModel:
    """Reads tokenizer, chat template and `generation_config.json` of a checkpoint.

    As elsewhere with these files, the generation config's end-of-sequence ids replace the model config's, and the
    tokenizer's own always counts. Raises CheckpointError naming the file.
    """
    codec = PromptCodec.load(directory)
    config = _read_generation_config(directory / "generation_config.json")
    ends = spec.eos_token_ids
    if config.eos_token_id is not None:
        ends = (config.eos_token_id,) if isinstance(config.eos_token_id, int) else config.eos_token_id
    if codec.end_token is not None:
        ends = (*ends, codec.end_token)
    return ServedModel(
        name=name,
        created=int(time.time()),
        codec=codec,
        context=context,
        vocab_size=spec.vocab_size,
        end_tokens=tuple(dict.fromkeys(ends)),
        sampling=_sampling(config),
    )


def _sampling(config: _GenerationConfig) -> Sampling:
    given = {key: value for key, value in msgspec.structs.asdict(config).items() if value is not None}
    given.pop("eos_token_id", None)
    if "top_k" in given:
        given["top_k"] = max(given["top_k"], 0)
    return Sampling(**given)


def _read_generation_config(path: Path) -> _GenerationConfig:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_GenerationConfig)
    except FileNotFoundError:
        return _GenerationConfig()
    except (ValueError, OSError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; repair or delete it") from error
