"""OpenAI's own client against a real server."""

import asyncio
from collections.abc import Awaitable, Callable

import openai
import pytest
from openai import AsyncOpenAI

from coordinator.request import Token
from tests.coordinator.serving import app, server, until
from tests.fakes.pipeline import FakePipeline, Pause, spell
from tests.tokenizer_files import EOS
from worker.errors import NotReadyError, StageFailedError

ANSWER = [*(Token(id) for id in "H\u00e9llo \u20ac".encode()), Token(EOS, "stop")]
CHAT = {"model": "org/tiny", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "org/tiny", "prompt": "Hi"}


def ask(pipeline: FakePipeline, scenario: Callable[[AsyncOpenAI], Awaitable[None]], *, key: str | None = None) -> None:
    async def run() -> None:
        async with (
            server(app(pipeline, api_key=key)) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key="s3cret", max_retries=0) as client,
        ):
            await scenario(client)

    asyncio.run(run())


def test_chat() -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        reply = await client.chat.completions.create(**CHAT, extra_body={"return_token_ids": True})
        assert reply.choices[0].message.content == "H\u00e9llo \u20ac"
        assert reply.choices[0].finish_reason == "stop"
        assert reply.usage is not None
        assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (21, 11)
        assert reply.choices[0].token_ids == [token.id for token in ANSWER]  # type: ignore[attr-defined]
        assert len(reply.prompt_token_ids) == 21  # type: ignore[attr-defined]

    ask(FakePipeline(ANSWER), scenario, key="s3cret")


def test_chat_stream() -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True})
        chunks = [chunk async for chunk in stream]
        assert len({chunk.id for chunk in chunks}) == 1
        assert chunks[0].choices[0].delta.role == "assistant"
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "H\u00e9llo \u20ac"
        assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
        assert chunks[-1].choices == []
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.total_tokens == 32

    ask(FakePipeline(ANSWER), scenario)


def test_completion_and_stream() -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        reply = await client.completions.create(**TEXT)
        assert (reply.choices[0].text, reply.choices[0].finish_reason) == ("abc", "length")
        stream = await client.completions.create(**TEXT, stream=True)
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "abc"
        assert chunks[-1].choices[0].finish_reason == "length"

    ask(FakePipeline(spell("abc")), scenario)


def test_models() -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        assert [model.id async for model in client.models.list()] == ["org/tiny"]
        assert (await client.models.retrieve("org/tiny")).id == "org/tiny"

    ask(FakePipeline([]), scenario)


@pytest.mark.parametrize(
    ("script", "fields", "kind", "code"),
    [
        ([], {"model": "other"}, openai.NotFoundError, "model_not_found"),
        ([], {"max_tokens": -1}, openai.BadRequestError, "invalid_request"),
        ([], {"max_tokens": 1000}, openai.BadRequestError, "context_length_exceeded"),
        ([NotReadyError("stage 1 is loading")], {}, openai.InternalServerError, "not_ready"),
        ([StageFailedError("stage 1 died")], {}, openai.InternalServerError, "stage_failed"),
    ],
    ids=["unknown model", "wrong value", "context", "not ready", "failed"],
)
def test_failures(script: list, fields: dict, kind: type[openai.APIStatusError], code: str) -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        for stream in (False, True):
            with pytest.raises(kind) as caught:
                await client.completions.create(**{**TEXT, **fields}, stream=stream)
            assert caught.value.code == code

    ask(FakePipeline(script), scenario)


def test_wrong_key() -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        with pytest.raises(openai.AuthenticationError):
            await client.models.list()

    ask(FakePipeline([]), scenario, key="other")


def test_failure_in_a_stream_is_raised() -> None:
    async def scenario(client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        pieces = [(await anext(stream)).choices[0].delta.content for _ in range(3)]
        assert pieces == ["", "a", "b"]
        with pytest.raises(openai.APIError, match="stage 1 died"):
            await anext(stream)

    ask(FakePipeline([Token(0x61), Token(0x62), StageFailedError("stage 1 died")]), scenario)


def test_closed_stream_ends_its_request() -> None:
    pipeline = FakePipeline([Token(0x61), Pause(60)])

    async def scenario(client: AsyncOpenAI) -> None:
        stream = await client.chat.completions.create(**CHAT, stream=True)
        async for _ in stream:
            break
        await stream.close()
        await until(lambda: pipeline.cancelled)

    ask(pipeline, scenario)


def test_several_clients_at_once() -> None:
    script = [step for id in b"abcdef" for step in (Pause(0.01), Token(id))] + [Token(EOS, "stop")]
    pipeline = FakePipeline(script)

    async def scenario(client: AsyncOpenAI) -> None:
        replies = await asyncio.gather(*(client.completions.create(**TEXT) for _ in range(8)))
        assert {reply.choices[0].text for reply in replies} == {"abcdef"}
        assert len({reply.id for reply in replies}) == 8

    ask(pipeline, scenario)
