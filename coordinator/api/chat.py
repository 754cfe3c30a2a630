"""POST /v1/chat/completions."""

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
from coordinator.api.generation import Backend, deltas, usage, whole
from coordinator.api.job import Job, check_model, encode, make_job
from coordinator.api.schema import (
    AssistantMessage,
    ChatBody,
    ChatChoice,
    ChatChunkChoice,
    ChatMessage,
    ContentPart,
    MessageDelta,
    Reply,
)
from coordinator.api.sse import DONE, EventStream, event, while_connected
from coordinator.served import ServedModel
from coordinator.text.marks import shared_places
from worker.errors import ConfigError, UserError


async def chat_completions(backend: Backend, request: Request) -> ASGIApp:
    """Answers a conversation, in one piece or as a stream."""
    body = await read_body(request, ChatBody)
    check_model(backend.model, body.model)
    _check(body)
    prompt, marks = await backend.threads_for(request).run(partial(_encode, backend.model, body))
    limit = body.max_completion_tokens or body.max_tokens
    job = make_job(
        backend.model,
        body,
        prompt,
        limit,
        field="messages",
        prefix="chatcmpl",
        request_id=request.state.request_id,
        marks=marks,
    )
    request.state.job = job.request.id
    if body.stream:
        return EventStream(_events(backend, job))
    reply = await while_connected(request.receive, _reply(backend, job))
    return json_response(msgspec.json.encode(reply))


async def _reply(backend: Backend, job: Job) -> Reply:
    answer = await whole(backend, job)
    ids = job.request.prompt if job.wants_token_ids else UNSET
    choice = ChatChoice(
        message=AssistantMessage(answer.text),
        finish_reason=answer.finish,
        token_ids=answer.tokens if job.wants_token_ids else UNSET,
        prompt_token_ids=ids,
    )
    return Reply(
        id=job.request.id,
        object="chat.completion",
        created=job.created,
        model=backend.model.name,
        choices=(choice,),
        usage=usage(job, len(answer.tokens), answer.cached),
        prompt_token_ids=ids,
    )


async def _events(backend: Backend, job: Job) -> AsyncGenerator[bytes, None]:
    """The chunks: the role, pieces of text, an empty one with the reason of the end, the usage if asked for."""
    plain = Reply(
        id=job.request.id,
        object="chat.completion.chunk",
        created=job.created,
        model=backend.model.name,
        choices=(),
        usage=None if job.wants_usage else UNSET,
    )

    def chunk(*choices: ChatChunkChoice, **changes: Any) -> bytes:
        return event(msgspec.json.encode(msgspec.structs.replace(plain, choices=choices, **changes)))

    generated = cached = 0
    async with aclosing(deltas(backend, job)) as steps:
        async for delta in steps:
            if generated == 0:
                ids = job.request.prompt if job.wants_token_ids else UNSET
                role = MessageDelta(role="assistant", content="")
                yield chunk(ChatChunkChoice(delta=role, prompt_token_ids=ids), prompt_token_ids=ids)
            generated += len(delta.tokens)
            cached += delta.cached
            tokens = delta.tokens if job.wants_token_ids else UNSET
            if delta.text or (tokens and not delta.finish):
                yield chunk(ChatChunkChoice(delta=MessageDelta(content=delta.text), token_ids=tokens))
                tokens = UNSET
            if delta.finish:
                yield chunk(ChatChunkChoice(delta=MessageDelta(), finish_reason=delta.finish, token_ids=tokens))
    if job.wants_usage:
        yield chunk(usage=usage(job, generated, cached))
    yield DONE


def _check(body: ChatBody) -> None:
    if body.tools and body.tool_choice != "none":
        hint = 'send `tool_choice`: "none" to only show them to the model'
        raise UnsupportedError(f"calls of `tools` are not supported; {hint}", param="tools")
    if not body.tools and body.tool_choice not in (None, "none", "auto"):
        raise UnsupportedError("`tool_choice` with this value is not supported; leave it out", param="tool_choice")
    if body.add_generation_prompt and body.continue_final_message:
        raise ConfigError(
            "`continue_final_message` and `add_generation_prompt` exclude each other", param="continue_final_message"
        )


def _encode(model: ServedModel, body: ChatBody) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The conversation as the checkpoint's template writes it, in token ids, and where it may be shared."""
    checked: list[ChatMessage] = convert(body.messages, list[ChatMessage], "messages")
    messages = [_message(i, *both) for i, both in enumerate(zip(body.messages, checked, strict=True))]
    going_on = bool(body.continue_final_message)
    variables = dict(body.chat_template_kwargs or {})
    if body.reasoning_effort is not None:
        variables.setdefault("reasoning_effort", body.reasoning_effort)
    text = model.codec.render(
        messages,
        tools=body.tools,
        add_generation_prompt=not going_on if body.add_generation_prompt is None else body.add_generation_prompt,
        continue_final_message=going_on,
        variables=variables,
    )
    render = partial(model.codec.render, tools=body.tools, add_generation_prompt=False, variables=variables)
    # the template has written the special tokens itself
    special = bool(body.add_special_tokens)
    return encode(
        model, text, field="messages", add_special_tokens=special, places=lambda: shared_places(text, messages, render)
    )


def _message(index: int, raw: dict[str, Any], checked: ChatMessage) -> dict[str, Any]:
    """A message as templates expect it: content one string, arguments of tool calls as objects, no `developer`."""
    message = dict(raw)
    if checked.content is None:
        if checked.role != "assistant":
            raise UserError(f"`messages[{index}].content` is required", param=f"messages[{index}].content")
        message["content"] = ""  # a turn of tool calls alone; many templates would write None
    if checked.role == "developer":
        message["role"] = "system"
    if isinstance(checked.content, list):
        message["content"] = "\n".join(
            _text(f"messages[{index}].content[{i}]", p) for i, p in enumerate(checked.content)
        )
    if checked.tool_calls:
        calls: list[dict[str, Any]] = raw["tool_calls"]
        message["tool_calls"] = [_tool_call(f"messages[{index}].tool_calls[{i}]", call) for i, call in enumerate(calls)]
    return message


def _text(where: str, part: ContentPart) -> str:
    if part.type != "text":
        raise UnsupportedError(f"`{where}` is of type {part.type!r}; this model reads only text", param=where)
    if part.text is None:
        raise UserError(f"`{where}.text` is required", param=f"{where}.text")
    return part.text


def _tool_call(where: str, call: dict[str, Any]) -> dict[str, Any]:
    function: dict[str, Any] = call["function"]
    arguments: Any = function.get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        arguments = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        param = f"{where}.function.arguments"
        raise UserError(f"`{param}` is not a JSON object: {error}", param=param) from error
    return {**call, "function": {**function, "arguments": arguments}}
