"""What all dialects share on the way in: checked settings and a prompt become one job for the pipeline."""

import secrets
import time
import uuid
from collections.abc import Callable, Sequence

import msgspec

from coordinator.api.schema import MAX_STOPS, Settings
from coordinator.request import Request
from coordinator.served import ServedModel
from worker.errors import ConfigError, ContextLengthError, UnknownModelError, UserError
from worker.protocol import Sampling


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A request that has passed all checks, and how its answer is wanted. `created` in Unix seconds."""

    request: Request
    created: int
    stops: tuple[str, ...]
    wants_token_ids: bool
    wants_usage: bool


def check_model(model: ServedModel, name: str | None) -> None:
    """Raises UnknownModelError unless `name` is the served one or absent."""
    if name is not None and name != model.name:
        raise UnknownModelError(f"model {name!r} is not served here; this server has {model.name!r}", param="model")


def encode(
    model: ServedModel,
    text: str,
    *,
    field: str,
    add_special_tokens: bool,
    places: Callable[[], Sequence[int]] = tuple[int, ...],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The token ids of a prompt, and how many of them lie before each of the `places` in the text.

    Raises ContextLengthError without tokenising what cannot fit: that would take memory and time without a limit.
    """
    if (least := model.codec.least_tokens(text)) >= model.context:
        raise ContextLengthError(
            f"the context is {model.context} tokens, the prompt has at least {least}; shorten it", param=field
        )
    return model.codec.encode_marked(text, places(), add_special_tokens=add_special_tokens)


def make_job(
    model: ServedModel,
    settings: Settings,
    prompt: tuple[int, ...],
    max_tokens: int | None,
    *,
    field: str,
    prefix: str,
    request_id: str,
    marks: tuple[int, ...] = (),
) -> Job:
    """Checks prompt and settings against the model. `max_tokens` None: the model's `answer_tokens`, or
    the rest of the context.

    `field` is where the prompt came from, `prefix` begins the id of the response, `marks` are the request's. Raises
    ContextLengthError or another UserError naming the field.
    """
    if settings.stream_options is not None and not settings.stream:
        raise ConfigError("`stream_options` needs `stream`: true", param="stream_options")
    if not prompt:
        raise UserError("the prompt has no tokens", param=field)
    if (largest := max(prompt)) >= model.vocab_size:
        raise UserError(
            f"token id {largest} of the prompt is not below the vocabulary's size {model.vocab_size}", param=field
        )
    room = model.context - len(prompt)
    size = f"the context is {model.context} tokens, the prompt has {len(prompt)}"
    if room < 1:
        raise ContextLengthError(f"{size}; shorten it", param=field)
    if max_tokens is not None and max_tokens > room:
        advice = f"ask for at most {room}"
        raise ContextLengthError(f"{size} and `max_tokens` asks for {max_tokens}; {advice}", param="max_tokens")
    stop_ids = settings.stop_token_ids or []
    if stop_ids and max(stop_ids) >= model.vocab_size:
        raise UserError(
            f"token id {max(stop_ids)} is not below the vocabulary's size {model.vocab_size}", param="stop_token_ids"
        )
    ends = () if settings.ignore_eos else model.end_tokens
    request = Request(
        id=f"{prefix}-{uuid.uuid4().hex}",
        request_id=request_id,
        prompt=prompt,
        max_tokens=max_tokens or min(room, model.answer_tokens),
        open_ended=max_tokens is None,
        sampling=_sampling(settings, model.sampling),
        stop_tokens=tuple(dict.fromkeys((*ends, *stop_ids))),
        marks=marks,
        repeatable=settings.seed is not None,
    )
    return Job(
        request=request,
        created=int(time.time()),
        stops=_stops(settings.stop),
        wants_token_ids=bool(settings.return_token_ids),
        wants_usage=settings.stream_options is not None and bool(settings.stream_options.include_usage),
    )


def _sampling(settings: Settings, defaults: Sampling) -> Sampling:
    """The request's own values before the checkpoint's, the checkpoint's before OpenAI's."""
    seed = secrets.randbits(63) if settings.seed is None else settings.seed & (2**63 - 1)
    given = {
        name: value
        for name in msgspec.structs.asdict(defaults)
        if name != "seed" and (value := getattr(settings, name)) is not None
    }
    if "top_k" in given:
        given["top_k"] = max(given["top_k"], 0)
    return msgspec.structs.replace(defaults, **given, seed=seed)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS:
        raise ConfigError(f"{len(stops)} stop strings, the limit is {MAX_STOPS}", param="stop")
    if "" in stops:
        raise ConfigError("a stop string cannot be empty", param="stop")
    return stops
