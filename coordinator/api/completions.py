"""POST /v1/completions."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.types import ASGIApp

from coordinator.api.body import UnsupportedError, convert, read_body
from coordinator.api.errors import json_response
from coordinator.api.generation import Answer, Backend, deltas, usage, whole
from coordinator.api.job import Job, check_model, encode, make_job
from coordinator.api.schema import CompletionBody, Reply, TextChoice, TokenId
from coordinator.api.sse import DONE, EventStream, event, while_connected
from coordinator.served import ServedModel
from coordinator.text.answer import Delta

# OpenAI's default, as far as the context has room
DEFAULT_MAX_TOKENS = 16


async def completions(backend: Backend, request: Request) -> ASGIApp:
    """Continues a text, in one piece or as a stream."""
    body = await read_body(request, CompletionBody)
    check_model(backend.model, body.model)
    prompt = await backend.threads_for(request).run(partial(_encode, backend.model, body))
    limit = body.max_tokens or min(DEFAULT_MAX_TOKENS, max(backend.model.context - len(prompt), 1))
    job = make_job(
        backend.model, body, prompt, limit, field="prompt", prefix="cmpl", request_id=request.state.request_id
    )
    request.state.job = job.request.id
    if body.stream:
        return EventStream(_events(backend, job))
    reply = await while_connected(request.receive, _reply(backend, job))
    return json_response(msgspec.json.encode(reply))


async def _reply(backend: Backend, job: Job) -> Reply:
    answer = await whole(backend, job)
    return msgspec.structs.replace(
        _plain(backend, job),
        choices=(_choice(job, answer, first=True),),
        usage=usage(job, len(answer.tokens), answer.cached),
    )


async def _events(backend: Backend, job: Job) -> AsyncGenerator[bytes, None]:
    """The chunks: pieces of text, the last one with the reason of the end, the usage if asked for."""
    plain = _plain(backend, job)

    def chunk(**changes: Any) -> bytes:
        return event(msgspec.json.encode(msgspec.structs.replace(plain, **changes)))

    generated = cached = 0
    first = True
    async with aclosing(deltas(backend, job)) as steps:
        async for delta in steps:
            generated += len(delta.tokens)
            cached += delta.cached
            if delta.text or delta.finish or job.wants_token_ids:
                yield chunk(choices=(_choice(job, delta, first=first),))
                first = False
    if job.wants_usage:
        yield chunk(usage=usage(job, generated, cached))
    yield DONE


def _plain(backend: Backend, job: Job) -> Reply:
    return Reply(
        id=job.request.id,
        object="text_completion",
        created=job.created,
        model=backend.model.name,
        choices=(),
        usage=None if job.wants_usage else UNSET,
    )


def _choice(job: Job, step: Answer | Delta, *, first: bool) -> TextChoice:
    return TextChoice(
        text=step.text,
        finish_reason=step.finish,
        token_ids=step.tokens if job.wants_token_ids else UNSET,
        prompt_token_ids=job.request.prompt if job.wants_token_ids and first else UNSET,
    )


def _encode(model: ServedModel, body: CompletionBody) -> tuple[int, ...]:
    prompt = body.prompt
    # a list of one prompt is that prompt
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        if len(prompt) > 1:
            raise UnsupportedError(
                "several prompts in one request are not supported; send them one by one", param="prompt"
            )
        prompt = prompt[0]
    if isinstance(prompt, str):
        return encode(model, prompt, field="prompt", add_special_tokens=body.add_special_tokens is not False)[0]
    ids: list[int] = convert(prompt, list[TokenId], "prompt")
    return tuple(ids)
