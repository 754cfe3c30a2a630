"""A request as the pipeline sees it, and what comes back."""

import msgspec

from worker.protocol import FinishReason, Sampling


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate: the prompt's token ids, when to end, how to choose.

    `max_tokens` is positive and fits the context together with the prompt (the API checks both).
    """

    id: str
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop_tokens: tuple[int, ...]


class Token(msgspec.Struct, frozen=True):
    """One generated token; `finish` is set on the last one. A stop token is delivered, with `finish` "stop"."""

    id: int
    finish: FinishReason | None = None
