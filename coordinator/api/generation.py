"""What all dialects share on the way out: the answer to a job as text deltas or in one piece."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec
from starlette.requests import Request

from coordinator.api.job import Job
from coordinator.api.schema import PromptDetails, Usage
from coordinator.api.threads import Threads
from coordinator.served import ServedModel
from coordinator.telemetry.observer import Observer
from coordinator.text.answer import Delta, TokenSource, answer
from coordinator.text.stop import StopMatcher
from coordinator.view import Reason
from worker.errors import CancelledRequestError, StagelineError
from worker.protocol import FinishReason

LONG_BODY_BYTES = 1 << 20  # a shorter one becomes a prompt in about a second at most


class Backend(msgspec.Struct, frozen=True):
    """What the routes stand on."""

    model: ServedModel
    pipeline: TokenSource
    observer: Observer
    threads: Threads
    long_threads: Threads

    def threads_for(self, request: Request) -> Threads:
        """Where the prompt of this request's body is made; a body that does not say its length may be a long one."""
        declared = request.headers.get("content-length", "")
        return self.threads if declared.isdecimal() and int(declared) <= LONG_BODY_BYTES else self.long_threads


class Answer(msgspec.Struct, frozen=True):
    """A whole answer; `cached` of the prompt's tokens were known already."""

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason
    cached: int


async def deltas(backend: Backend, job: Job) -> AsyncGenerator[Delta, None]:
    """The answer step by step; the observer hears how it ends, however it ends."""
    reason: Reason = "cancelled"
    failure: str | None = None
    steps = answer(backend.pipeline, job.request, backend.model.codec.detokenizer(), StopMatcher(job.stops))
    try:
        async with aclosing(steps):
            async for delta in steps:
                reason = delta.finish or reason
                yield delta
    except CancelledRequestError:
        raise
    except StagelineError as error:
        reason, failure = "error", error.code
        raise
    except Exception:
        reason, failure = "error", "internal_error"
        raise
    finally:
        backend.observer.ended(job.request.id, reason, failure, time.monotonic())


async def whole(backend: Backend, job: Job) -> Answer:
    """The answer in one piece."""
    text: list[str] = []
    tokens: list[int] = []
    finish: FinishReason | None = None
    cached = 0
    async with aclosing(deltas(backend, job)) as steps:
        async for delta in steps:
            text.append(delta.text)
            tokens.extend(delta.tokens)
            finish = delta.finish
            cached += delta.cached
    assert finish is not None
    return Answer("".join(text), tuple(tokens), finish, cached)


def usage(job: Job, generated: int, cached: int) -> Usage:
    """The token counts of a finished request."""
    prompt = len(job.request.prompt)
    return Usage(prompt, generated, prompt + generated, PromptDetails(cached))
