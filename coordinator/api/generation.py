"""What all dialects share on the way out: the answer to a job as text deltas or in one piece, and its log line."""

import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from coordinator.answer import Delta, TokenSource, answer
from coordinator.api.job import Job
from coordinator.api.schema import Usage
from coordinator.api.threads import Threads
from coordinator.served import ServedModel
from coordinator.stop import StopMatcher
from worker.errors import StagelineError
from worker.protocol import FinishReason

log = logging.getLogger("stageline.request")


class Backend(msgspec.Struct, frozen=True):
    """What the routes stand on."""

    model: ServedModel
    pipeline: TokenSource
    threads: Threads


class Answer(msgspec.Struct, frozen=True):
    """A whole answer."""

    text: str
    tokens: tuple[int, ...]
    finish: FinishReason


async def deltas(backend: Backend, job: Job) -> AsyncGenerator[Delta, None]:
    """The answer step by step; writes one log line when it is over, however it ends."""
    started = time.perf_counter()
    first: float | None = None
    generated, outcome = 0, "cancelled"
    steps = answer(backend.pipeline, job.request, backend.model.codec.detokenizer(), StopMatcher(job.stops))
    try:
        async with aclosing(steps):
            async for delta in steps:
                first = first or time.perf_counter()
                generated += len(delta.tokens)
                outcome = delta.finish or outcome
                yield delta
    except StagelineError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "internal_error"
        raise
    finally:
        _log(job, generated, started, first, outcome)


async def whole(backend: Backend, job: Job) -> Answer:
    """The answer in one piece."""
    text: list[str] = []
    tokens: list[int] = []
    finish: FinishReason | None = None
    async with aclosing(deltas(backend, job)) as steps:
        async for delta in steps:
            text.append(delta.text)
            tokens.extend(delta.tokens)
            finish = delta.finish
    assert finish is not None
    return Answer("".join(text), tuple(tokens), finish)


def usage(job: Job, generated: int) -> Usage:
    """The token counts of a finished request."""
    prompt = len(job.request.prompt)
    return Usage(prompt, generated, prompt + generated)


def _log(job: Job, generated: int, started: float, first: float | None, outcome: str) -> None:
    now = time.perf_counter()
    # the first token comes out of the prefill, the rate is of the others
    rate = (generated - 1) / (now - first) if first is not None and generated > 1 and now > first else 0.0
    log.info(
        "id=%s request_id=%s prompt_tokens=%d generated_tokens=%d ttft_seconds=%s tokens_per_second=%.1f finish=%s",
        job.request.id,
        job.request_id,
        len(job.request.prompt),
        generated,
        "-" if first is None else f"{first - started:.3f}",
        rate,
        outcome,
    )
