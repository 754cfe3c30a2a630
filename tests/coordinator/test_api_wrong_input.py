"""What clients get for requests that cannot be served: a status, and a body in OpenAI's shape that says why."""

import asyncio
import json
from typing import Any

import httpx
import pytest

from coordinator.api import body as body_module
from coordinator.text.prompt import PromptCodec
from tests.coordinator.serving import CONTEXT, app, call
from tests.fakes.pipeline import FakePipeline, spell

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]
ENDPOINTS = [(CHAT, {"messages": MESSAGES}), (TEXT, {"prompt": "Hi"})]


def short(value: Any) -> str | None:
    """The id of a case: its body, not the message it expects."""
    return None if isinstance(value, str) else json.dumps(value)[:60]


def ask(path: str, **options: Any) -> httpx.Response:
    pipeline = FakePipeline(spell("a"))
    response = call(app(pipeline), "POST", path, **options)
    if response.status_code != 200:
        assert pipeline.requests == []
        assert response.headers["content-type"] == "application/json"
        assert response.json().keys() == {"error"}
        assert response.json()["error"].keys() == {"message", "type", "param", "code"}
    return response


def refused(path: str, body: dict[str, Any], status: int = 400) -> dict[str, Any]:
    response = ask(path, json=body)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    return error


@pytest.mark.parametrize("path", [CHAT, TEXT])
@pytest.mark.parametrize(
    ("content", "part"),
    [
        pytest.param(b'{"prompt": "\xff"}', "not UTF-8: invalid start byte at byte 12", id="not utf-8"),
        pytest.param(b'{"unknown": "\xff"}', "not UTF-8", id="not utf-8 in an unknown field"),
        pytest.param(b"", "not a JSON object", id="empty"),
        pytest.param(b'{"prompt": "a"', "truncated", id="cut off"),
        pytest.param(b'{"prompt": "a",, }', "byte 15", id="malformed"),
        pytest.param(b'{"prompt": "a"} x', "trailing characters", id="something after it"),
        pytest.param(b'{"temperature": NaN}', "byte 16", id="NaN"),
        pytest.param(b'{"temperature": 1e999}', "out of range", id="infinite"),
        pytest.param(b'{"prompt": "\\ud800 and more text"}', "surrogate", id="half a surrogate pair"),
        pytest.param(b"[]", "expected `object`, got `array`", id="array"),
        pytest.param(b"null", "expected `object`, got `null`", id="null"),
        pytest.param(b'"a"', "expected `object`, got `str`", id="string"),
        pytest.param(b'{"a":' * 100_000, "depth", id="too deep"),
    ],
)
def test_body_that_is_no_json_object(path: str, content: bytes, part: str) -> None:
    response = ask(path, content=content)
    assert response.status_code == 400
    assert part.lower() in response.json()["error"]["message"].lower()


WRONG_SETTINGS = [
    ({"max_tokens": -5}, "max_tokens", "`max_tokens`: expected int >= 1, got -5"),
    ({"max_tokens": 0}, "max_tokens", "`max_tokens`: expected int >= 1, got 0"),
    ({"max_tokens": "5"}, "max_tokens", "`max_tokens`: expected int, got str"),
    ({"max_tokens": 5.5}, "max_tokens", "`max_tokens`: expected int, got float"),
    ({"max_tokens": True}, "max_tokens", "`max_tokens`: expected int, got bool"),
    ({"max_tokens": 10**30}, "max_tokens", "`max_tokens`: expected int <= 2147483647, got 1" + "0" * 30),
    ({"temperature": -0.1}, "temperature", "`temperature`: expected float >= 0.0, got -0.1"),
    ({"temperature": "hot"}, "temperature", "`temperature`: expected float, got str"),
    ({"top_p": 0}, "top_p", "`top_p`: expected float > 0.0, got 0"),
    ({"top_p": 1.1}, "top_p", "`top_p`: expected float <= 1.0, got 1.1"),
    ({"top_k": -2}, "top_k", "`top_k`: expected int >= -1, got -2"),
    ({"min_p": 2}, "min_p", "`min_p`: expected float <= 1.0, got 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "`repetition_penalty`: expected float > 0.0, got 0"),
    ({"presence_penalty": 3}, "presence_penalty", "`presence_penalty`: expected float <= 2.0, got 3"),
    ({"frequency_penalty": -3}, "frequency_penalty", "`frequency_penalty`: expected float >= -2.0, got -3"),
    ({"seed": "x"}, "seed", "`seed`: expected int, got str"),
    ({"seed": 2**63}, "seed", f"`seed`: expected int <= {2**63 - 1}, got {2**63}"),
    ({"stop": 5}, "stop", "`stop`: expected str | array, got int"),
    ({"stop": ["a", 1]}, "stop[1]", "`stop[1]`: expected str, got int"),
    ({"stop": ""}, "stop", "a stop string cannot be empty"),
    ({"stop": ["x"] * 17}, "stop", "17 stop strings, the limit is 16"),
    ({"stream": 1}, "stream", "`stream`: expected bool, got int"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "`stream_options` needs `stream`: true"),
    ({"stream": True, "stream_options": 1}, "stream_options", "`stream_options`: expected object, got int"),
    ({"stop_token_ids": [5, 300]}, "stop_token_ids", "token id 300 is not below the vocabulary's size 300"),
    ({"stop_token_ids": [-1]}, "stop_token_ids[0]", "`stop_token_ids[0]`: expected int >= 0"),
    ({"model": 5}, "model", "`model`: expected str, got int"),
]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "text"])
@pytest.mark.parametrize(("fields", "param", "message"), WRONG_SETTINGS, ids=short)
def test_wrong_setting(endpoint: tuple[str, dict], fields: dict, param: str, message: str) -> None:
    path, body = endpoint
    error = refused(path, body | fields)
    assert (error["param"], error["message"]) == (param, message)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "text"])
@pytest.mark.parametrize(
    "fields",
    [
        {"n": 2},
        {"n": True},
        {"best_of": 3},
        {"logprobs": True},
        {"logprobs": 0},
        {"top_logprobs": 5},
        {"logit_bias": {"5": 1}},
        {"echo": True},
        {"suffix": "x"},
        {"response_format": {"type": "json_object"}},
        {"functions": [{"name": "f"}]},
        {"audio": {"voice": "x"}},
        {"modalities": ["text", "audio"]},
        {"min_tokens": 3},
        {"structured_outputs": {"regex": "a"}},
        {"chat_template": "{{ 1 }}"},
    ],
    ids=json.dumps,
)
def test_unsupported_field(endpoint: tuple[str, dict], fields: dict) -> None:
    path, body = endpoint
    (name,) = fields
    error = refused(path, body | fields)
    assert (error["param"], error["code"]) == (name, "unsupported_value")
    assert f"`{name}`" in error["message"]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "text"])
def test_harmless_fields_are_ignored(endpoint: tuple[str, dict]) -> None:
    path, body = endpoint
    harmless = {
        "user": "me", "store": True, "metadata": {"a": 1}, "service_tier": "auto", "parallel_tool_calls": False,
        "what_is_this": [1], "n": 1, "best_of": 1, "logprobs": False, "logit_bias": {}, "echo": False, "suffix": None,
        "response_format": {"type": "text"}, "modalities": ["text"], "temperature": None, "stop": None, "model": None,
        "tools": [], "stream_options": None,
    }  # fmt: skip
    assert ask(path, json=body | harmless).status_code == 200


WRONG_CHATS = [
    ({}, "messages", "is required"),
    ({"messages": []}, "messages", ">= 1"),
    ({"messages": "Hi"}, "messages", "got str"),
    ({"messages": ["Hi"]}, "messages[0]", "got str"),
    ({"messages": [{"content": "Hi"}]}, "messages[0].role", "is required"),
    ({"messages": [{"role": "robot", "content": "Hi"}]}, "messages[0].role", "'robot'"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "is required"),
    ({"messages": [*MESSAGES, {"role": "user", "content": 5}]}, "messages[1].content", "got int"),
    ({"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}, "messages[0].content[0].type", "is required"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
     "messages[0].content[0]", "'image_url'"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "is required"),
    ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages", "a chat cannot begin with the assistant"),
    ({"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [{"id": "x"}]}]},
     "messages[1].tool_calls[0].function", "is required"),
    ({"messages": [*MESSAGES, {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{x"}}]}]},
     "messages[1].tool_calls[0].function.arguments", "not a JSON object"),
    ({"messages": MESSAGES, "max_completion_tokens": -1}, "max_completion_tokens", ">= 1"),
    ({"messages": MESSAGES, "tools": [{"type": "function"}]}, "tools", "tool_choice"),
    ({"messages": MESSAGES, "tools": [{"type": "function"}], "tool_choice": "auto"}, "tools", "tool_choice"),
    ({"messages": MESSAGES, "tool_choice": "required"}, "tool_choice", "not supported"),
    ({"messages": MESSAGES, "chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs", "tokenize"),
    ({"messages": MESSAGES, "chat_template_kwargs": []}, "chat_template_kwargs", "expected object"),
    ({"messages": MESSAGES, "add_generation_prompt": True, "continue_final_message": True},
     "continue_final_message", "exclude each other"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "param", "part"), WRONG_CHATS, ids=short)
def test_wrong_chat(body: dict, param: str, part: str) -> None:
    error = refused(CHAT, body)
    assert error["param"] == param
    assert part in error["message"]


WRONG_PROMPTS = [
    ({}, "prompt", "is required"),
    ({"prompt": None}, "prompt", "expected str | array, got null"),
    ({"prompt": 5}, "prompt", "expected str | array, got int"),
    ({"prompt": []}, "prompt", "no tokens"),
    ({"prompt": "", "add_special_tokens": False}, "prompt", "no tokens"),
    ({"prompt": ["a", "b"]}, "prompt", "several prompts"),
    ({"prompt": [[1], [2]]}, "prompt", "several prompts"),
    ({"prompt": [1, "a"]}, "prompt[1]", "got str"),
    ({"prompt": [-1]}, "prompt[0]", ">= 0"),
    ({"prompt": [True]}, "prompt[0]", "got bool"),
    ({"prompt": [{"a": 1}]}, "prompt", "got object"),
    ({"prompt": [5, 300]}, "prompt", "token id 300 of the prompt is not below the vocabulary's size 300"),
]


@pytest.mark.parametrize(("body", "param", "part"), WRONG_PROMPTS, ids=short)
def test_wrong_prompt(body: dict, param: str, part: str) -> None:
    error = refused(TEXT, body)
    assert error["param"] == param
    assert part in error["message"]


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (TEXT, {"prompt": [1] * CONTEXT}, "the context is 128 tokens, the prompt has 128; shorten it"),
        (TEXT, {"prompt": [1] * 500}, "the context is 128 tokens, the prompt has 500; shorten it"),
        (TEXT, {"prompt": [1] * 100, "max_tokens": 29},
         "the context is 128 tokens, the prompt has 100 and `max_tokens` asks for 29; ask for at most 28"),
        (CHAT, {"messages": MESSAGES, "max_completion_tokens": 108},
         "the context is 128 tokens, the prompt has 21 and `max_tokens` asks for 108; ask for at most 107"),
        (TEXT, {"prompt": "x" * 100_000}, "the context is 128 tokens, the prompt has at least 8334; shorten it"),
        (CHAT, {"messages": [{"role": "user", "content": "x" * 200}]},
         "the context is 128 tokens, the prompt has 219; shorten it"),
    ],
    ids=["prompt fits", "prompt too long", "answer too long", "chat answer too long", "far too long", "chat too long"],
)  # fmt: skip
def test_context_too_short(path: str, body: dict, message: str) -> None:
    error = refused(path, body)
    assert (error["code"], error["message"]) == ("context_length_exceeded", message)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=["chat", "text"])
def test_unknown_model(endpoint: tuple[str, dict]) -> None:
    path, body = endpoint
    error = refused(path, body | {"model": "gpt-5"}, 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert "'gpt-5'" in error["message"]
    assert "'org/tiny'" in error["message"]


def test_chat_without_a_template() -> None:
    pipeline = FakePipeline(spell("a"))
    response = call(app(pipeline, template=None), "POST", CHAT, json={"messages": MESSAGES})
    assert response.status_code == 400
    assert "/v1/completions" in response.json()["error"]["message"]
    assert call(app(pipeline, template=None), "POST", TEXT, json={"prompt": "Hi"}).status_code == 200


@pytest.mark.parametrize("path", [CHAT, TEXT])
def test_what_cannot_fit_is_not_tokenised(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(PromptCodec, "encode")
    text = "x" * 100_000
    error = refused(path, {"prompt": text, "messages": [{"role": "user", "content": text}]})
    assert error["code"] == "context_length_exceeded"


def test_body_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "BODY_SECONDS", 0.05)

    async def pieces():
        yield b'{"prompt": '
        await asyncio.sleep(10)

    response = ask(TEXT, content=pieces())
    assert (response.status_code, response.headers["connection"]) == (408, "close")
    assert response.json()["error"]["code"] == "request_timeout"


@pytest.mark.parametrize("text", ["\\ud800", "\\ud800x", "\\udc00", "\\u0041\\udc00"])
def test_lone_surrogate(text: str) -> None:
    response = ask(TEXT, content=f'{{"prompt": "{text}"}}'.encode())
    assert response.status_code == 400
    assert "lone surrogate" in response.json()["error"]["message"]


def test_byte_order_mark_and_whole_surrogates_are_fine() -> None:
    assert ask(TEXT, content='\ufeff{"prompt": "\\ud83d\\ude00"}'.encode()).status_code == 200


def test_body_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_module, "MAX_BODY_BYTES", 100)
    declared = ask(TEXT, json={"prompt": "x" * 100})

    async def pieces():
        for _ in range(3):
            yield b"x" * 50

    streamed = ask(TEXT, content=pieces())
    for response in (declared, streamed):
        assert response.status_code == 413
        assert "100" in response.json()["error"]["message"]


def test_unknown_url() -> None:
    response = ask("/v1/embeddings", json={})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "unknown_url"
    assert "POST /v1/embeddings" in response.json()["error"]["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("PUT", TEXT), ("POST", "/v1/models"), ("POST", "/ready")])
def test_wrong_method(method: str, path: str) -> None:
    response = call(app(FakePipeline([])), method, path)
    assert response.status_code == 405
    assert response.headers["allow"]
    assert response.json()["error"]["code"] == "method_not_allowed"
