"""One request in, its text out: tokens from the pipeline become pieces of text that end at a stop string."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import msgspec

from coordinator.request import Request, Token
from coordinator.text.detokenize import Detokenizer
from coordinator.text.stop import StopMatcher
from coordinator.view import ClusterView
from worker.errors import ClusterError
from worker.protocol import FinishReason


class TokenSource(Protocol):
    """What answers requests: the pipeline, or a scripted one in tests."""

    def generate(self, request: Request) -> AsyncGenerator[Token, None]:
        """The request's tokens; `aclose` cancels it. Raises what `Pipeline.generate` does."""
        ...

    async def cancel(self, number: int) -> None:
        """Ends the request that the journal knows by this number; returns when every stage has freed it."""
        ...

    async def freed(self, number: int) -> None:
        """Returns when every stage has freed the request of this number."""
        ...

    def view(self) -> ClusterView:
        """The state of all stages."""
        ...

    def problem(self) -> str | None:
        """Why no request can be taken now, naming the stage; None if one can."""
        ...


class Delta(msgspec.Struct, frozen=True):
    """A step of an answer: text that is certain (perhaps none), the tokens since the last step, the end.

    The first one tells how many of the prompt's tokens were `cached`.
    """

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason | None = None
    cached: int = 0


async def answer(
    source: TokenSource, request: Request, detokenizer: Detokenizer, stops: StopMatcher
) -> AsyncGenerator[Delta, None]:
    """The answer to `request`; the last delta, and only that one, has `finish`.

    The text leaves out special and stop tokens and everything from a stop string on; `tokens` leave out nothing. At a
    stop string the request is cancelled before its last delta is handed out.
    """
    last: Delta | None = None
    async with aclosing(source.generate(request)) as tokens:
        async for token in tokens:
            text = "" if token.finish == "stop" else detokenizer.push(token.id)
            if token.finish is not None:
                text += detokenizer.flush()
            text, stopped = stops.push(text)
            if stopped:
                last = Delta(text, (token.id,), "stop", token.cached)
                break
            if token.finish is not None:
                last = Delta(text + stops.flush(), (token.id,), token.finish, token.cached)
                break
            yield Delta(text, (token.id,), cached=token.cached)
    if last is None:
        raise ClusterError(f"the pipeline ended request {request.id} without a reason")
    yield last
