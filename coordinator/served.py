"""The model as the HTTP side serves it."""

import logging
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from coordinator.text.prompt import PromptCodec
from worker.checkpoint.fields import read_json
from worker.errors import CheckpointError
from worker.protocol import Sampling
from worker.spec import ModelSpec

log = logging.getLogger("stageline.model")


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model under one name. `context` is in tokens, `created` in Unix seconds; `sampling` are the defaults, and
    `answer_tokens` is the longest answer to a request that names no limit."""

    name: str
    created: int
    codec: PromptCodec
    context: int
    vocab_size: int
    end_tokens: tuple[int, ...]
    sampling: Sampling
    answer_tokens: int = 32768


class _GenerationConfig(msgspec.Struct, frozen=True):
    """What `generation_config.json` says about sampling."""

    temperature: Annotated[float, Meta(ge=0)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None


def load_served_model(directory: Path, *, name: str, spec: ModelSpec, context: int, answer_tokens: int) -> ServedModel:
    """Reads tokenizer, chat template and `generation_config.json` of a checkpoint.

    The tokenizer's own end-of-sequence id counts beside those of `spec`. Raises CheckpointError naming the file.
    """
    codec = PromptCodec.load(directory)
    if codec.template_problem:
        log.warning("chat requests will be refused: the chat template is broken (%s)", codec.template_problem)
    config = _read_generation_config(directory / "generation_config.json")
    ends = spec.eos_token_ids
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
        answer_tokens=answer_tokens,
    )


def _sampling(config: _GenerationConfig) -> Sampling:
    given = {key: value for key, value in msgspec.structs.asdict(config).items() if value is not None}
    if "top_k" in given:
        given["top_k"] = max(given["top_k"], 0)
    return Sampling(**given)


def _read_generation_config(path: Path) -> _GenerationConfig:
    if not path.exists():
        return _GenerationConfig()
    try:
        return msgspec.convert(read_json(path), _GenerationConfig)
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path}: {error}; repair or delete it") from error
