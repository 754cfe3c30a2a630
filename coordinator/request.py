"""A request as the pipeline sees it, and what comes back."""

import msgspec

from worker.protocol import FinishReason, Sampling


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One sequence to generate: the prompt's token ids, when to end, how to choose.

    At `marks` the prompt may be shared with others (`coordinator.text.marks`). One that is `repeatable` asks for the
    same tokens whenever it comes again.

    `id` is the response's, `request_id` the one of `X-Request-Id`. `max_tokens` is positive and fits the context
    together with the prompt (the API checks both); if the answer is `open_ended`, nobody asked for so many, and fewer
    do if there is no room for their state.
    """

    id: str
    request_id: str = ""
    prompt: tuple[int, ...]
    max_tokens: int
    sampling: Sampling
    stop_tokens: tuple[int, ...]
    open_ended: bool = False
    marks: tuple[int, ...] = ()
    repeatable: bool = False


class Token(msgspec.Struct, frozen=True):
    """One generated token; `finish` is set on the last one. A stop token is delivered, with `finish` "stop".

    The first one tells how many tokens of the prompt are `cached`: a snapshot had seen them.
    """

    id: int
    finish: FinishReason | None = None
    cached: int = 0
