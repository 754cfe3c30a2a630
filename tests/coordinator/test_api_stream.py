"""The bytes of streams."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator

import httpx
import pytest

from coordinator.api.sse import EventStream
from coordinator.request import Token
from tests.coordinator.serving import app, call, post, server, until, without_chance
from tests.fakes.pipeline import FakePipeline, Pause, spell
from tests.tokenizer_files import EOS
from worker.errors import NotReadyError, StageFailedError

MESSAGES = [{"role": "user", "content": "Hi"}]


def chat(script: list, **fields: object) -> httpx.Response:
    return post(FakePipeline(script), "/v1/chat/completions", {"messages": MESSAGES, "stream": True, **fields})


def complete(script: list, **fields: object) -> httpx.Response:
    return post(FakePipeline(script), "/v1/completions", {"prompt": "Hi", "stream": True, **fields})


def test_chat_bytes() -> None:
    response = chat([Token(0x61), Token(0xC3), Token(0xA9), Token(EOS, "stop")], stream_options={"include_usage": True})
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["cache-control"] == "no-cache"
    head = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"org/tiny","choices":['
    assert without_chance(response.text) == (
        head + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],'
        '"usage":null}\n\n'
        + head + '{"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        + head + '{"index":0,"delta":{"content":"\u00e9"},"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
        + head + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}\n\n'
        + head + '],"usage":{"prompt_tokens":21,"completion_tokens":4,"total_tokens":25,'
        '"prompt_tokens_details":{"cached_tokens":0}}}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip


def test_completion_bytes() -> None:
    response = complete(spell("ab"))
    head = 'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"org/tiny","choices":['
    assert without_chance(response.text) == (
        head + '{"index":0,"text":"a","logprobs":null,"finish_reason":null}]}\n\n'
        + head + '{"index":0,"text":"b","logprobs":null,"finish_reason":"length"}]}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip


def test_chat_token_ids_bytes() -> None:
    response = chat([Token(0xC3), Token(0xA9), Token(EOS, "stop")], messages=[{"role": "user", "content": ""}],
                    chat_template_kwargs={}, return_token_ids=True, add_generation_prompt=False)  # fmt: skip
    prompt = "[258,117,115,101,114,10,259,10]"
    head = 'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"org/tiny","choices":['
    assert without_chance(response.text) == (
        head + '{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null,'
        f'"prompt_token_ids":{prompt}}}],"prompt_token_ids":{prompt}}}\n\n'
        + head + '{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":null,"token_ids":[195]}]}\n\n'
        + head + '{"index":0,"delta":{"content":"\u00e9"},"logprobs":null,"finish_reason":null,"token_ids":[169]}]}\n\n'
        + head + '{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop","token_ids":[257]}]}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip


def test_completion_token_ids_bytes() -> None:
    response = complete(spell("ab"), prompt=[1, 2], return_token_ids=True)
    head = 'data: {"id":"cmpl-1","object":"text_completion","created":1,"model":"org/tiny","choices":['
    assert without_chance(response.text) == (
        head + '{"index":0,"text":"a","logprobs":null,"finish_reason":null,"token_ids":[97],'
        '"prompt_token_ids":[1,2]}]}\n\n'
        + head + '{"index":0,"text":"b","logprobs":null,"finish_reason":"length","token_ids":[98]}]}\n\n'
        "data: [DONE]\n\n"
    )  # fmt: skip


def test_stop_string_ends_stream_and_request() -> None:
    pipeline = FakePipeline([*spell("say END now")[:-1], Pause(60), Token(0)])
    response = post(pipeline, "/v1/completions", {"prompt": "Hi", "stream": True, "stop": ["END"], "max_tokens": 50})
    assert '"text":"","logprobs":null,"finish_reason":"stop"' in response.text
    assert pipeline.cancelled == [pipeline.requests[0].id]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("failure", "status"),
    [
        (NotReadyError("stage 1 is loading"), 503),
        (StageFailedError("stage 1 (layers 3 to 4) died"), 502),
    ],
    ids=["not ready", "failed"],
)
def test_failure_before_the_first_token_has_its_status(failure: Exception, status: int, stream: bool) -> None:
    response = post(FakePipeline([failure]), "/v1/completions", {"prompt": "Hi", "stream": stream})
    assert response.status_code == status
    assert response.json()["error"]["message"] == str(failure)
    assert response.json()["error"]["type"] == "server_error"
    assert ("retry-after" in response.headers) == (status == 503)


def test_failure_in_a_stream_is_its_last_event() -> None:
    response = chat([Token(0x61), StageFailedError("stage 1 (layers 3 to 4) died")])
    assert response.status_code == 200
    assert response.text.endswith(
        'event: error\ndata: {"error":{"message":"stage 1 (layers 3 to 4) died","type":"server_error",'
        '"param":null,"code":"stage_failed"}}\n\n'
    )
    assert "[DONE]" not in response.text


def test_failure_without_a_stream_has_its_status() -> None:
    response = post(FakePipeline([Token(0x61), StageFailedError("stage 1 died")]), "/v1/completions", {"prompt": "Hi"})
    assert response.status_code == 502


def test_bug_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    response = chat([Token(0x61), ZeroDivisionError("secret")])
    assert '"code":"internal_error"' in response.text
    assert "secret" not in response.text
    assert "ZeroDivisionError: secret" in caplog.text
    first = call(app(FakePipeline([ZeroDivisionError("secret")])), "POST", "/v1/completions", json={"prompt": "Hi"},
                 headers={"x-request-id": "abc"}, fails=True)  # fmt: skip
    assert first.status_code == 500
    assert first.headers["x-request-id"] == "abc"
    assert first.json()["error"]["code"] == "internal_error"
    assert "secret" not in first.text


def test_silence_is_filled_with_comments() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(0.12)
        yield b"data: 1\n\n"
        await asyncio.sleep(0.12)
        raise StageFailedError("stage 0 died")

    response = call(EventStream(events(), silence=0.05), "GET", "/")
    assert response.text.split("\n\n")[:6] == [
        ": keep-alive", ": keep-alive", "data: 1", ": keep-alive", ": keep-alive",
        'event: error\ndata: {"error":{"message":"stage 0 died","type":"server_error",'
        '"param":null,"code":"stage_failed"}}',
    ]  # fmt: skip


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("script", [[Pause(60)], [Token(0x61), Pause(60)], [Token(0x61), Pause(0.001)] * 10_000],
                         ids=["in prefill", "between tokens", "while tokens come"])  # fmt: skip
def test_client_that_goes_away_ends_its_request(script: list, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stageline.request")
    pipeline = FakePipeline(script)

    async def scenario() -> None:
        async with server(app(pipeline)) as url, httpx.AsyncClient() as client:
            body = {"prompt": "Hi", "stream": stream}
            asking = asyncio.create_task(client.post(f"{url}/v1/completions", json=body))
            await until(lambda: pipeline.requests)
            asking.cancel()
            await until(lambda: pipeline.cancelled)

    asyncio.run(scenario())
    assert pipeline.cancelled == [pipeline.requests[0].id]
    assert "status=499 finish=cancelled" in caplog.text or "status=200 finish=cancelled" in caplog.text


def test_event_has_no_line_break_of_any_kind() -> None:
    text = "a\u0085b\u2028c\u2029d\ne\x0bf\x1cg\u00e9"
    response = complete(spell(text), max_tokens=50)
    events = [line for line in response.text.splitlines() if line]  # splits at all of them
    assert all(line.startswith("data: ") for line in events)
    assert "".join(json.loads(line[6:])["choices"][0]["text"] for line in events[:-1]) == text


def test_client_that_goes_away_within_its_request_is_no_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        async with server(app(FakePipeline([]))) as url:
            _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
            writer.write(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            async with httpx.AsyncClient() as client:
                assert (await client.get(f"{url}/health")).status_code == 200

    asyncio.run(scenario())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_one_log_line_per_request(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "stageline.request")
    pipeline = FakePipeline(spell("abc"))
    post(pipeline, "/v1/completions", {"prompt": [1, 2], "max_tokens": 3}, headers={"x-request-id": "r-1"})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "stageline.request"]
    assert line.startswith("request id=")
    fields = dict(pair.split("=") for pair in line.split()[1:])
    assert fields["id"] == pipeline.requests[0].id
    assert fields["request_id"] == "r-1"
    assert (fields["prompt_tokens"], fields["generated_tokens"], fields["finish"]) == ("2", "3", "length")
    assert fields["status"] == "200"
    assert 0 <= float(fields["queue_seconds"]) <= float(fields["first_token_seconds"]) <= float(fields["total_seconds"])
    assert float(fields["total_seconds"]) < 5
    assert float(fields["tokens_per_second"]) > 0
