import json
from typing import Any

import pytest

from coordinator.request import Token
from tests.coordinator.serving import CONTEXT, app, call, post
from tests.fakes.pipeline import FakePipeline, Pause, spell
from tests.tokenizer_files import EOS, byte_level
from worker.protocol import Sampling

PATH = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Hi"}]


def prompt_of(**body: Any) -> str:
    """The prompt that the pipeline gets, as text."""
    pipeline = FakePipeline(spell("a"))
    response = post(pipeline, PATH, {"messages": MESSAGES, **body})
    assert response.status_code == 200, response.text
    return byte_level().decode(pipeline.requests[0].prompt, skip_special_tokens=False)


def test_whole_answer() -> None:
    response = post(FakePipeline(spell("H\u00e9!")), PATH, {"messages": MESSAGES, "model": "org/tiny"})
    reply = response.json()
    assert reply.pop("id").startswith("chatcmpl-")
    assert reply.pop("created") > 1_700_000_000
    assert reply == {
        "object": "chat.completion",
        "model": "org/tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "H\u00e9!"},
                "logprobs": None,
                "finish_reason": "length",
            }
        ],
        "usage": {
            "prompt_tokens": 21,
            "completion_tokens": 4,
            "total_tokens": 25,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_token_ids_are_where_vllm_has_them() -> None:
    script = [Token(0x61), Token(EOS, "stop")]
    reply = post(FakePipeline(script), PATH, {"messages": MESSAGES, "return_token_ids": True}).json()
    (choice,) = reply["choices"]
    assert choice["message"]["content"] == "a"
    assert choice["finish_reason"] == "stop"
    assert choice["token_ids"] == [0x61, EOS]
    assert choice["prompt_token_ids"] == reply["prompt_token_ids"]
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"] == 21
    assert reply["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize("stream", [False, True])
def test_text_is_the_same_streamed_or_not(stream: bool) -> None:
    script = [Token(id) for id in b"a\xe2\x82\xac\xff\xf0\x9f b END c"]
    body = {"messages": MESSAGES, "stop": "END", "stream": stream, "max_tokens": 60}
    response = post(FakePipeline(script), PATH, body)
    if stream:
        events = [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: {")]
        text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    else:
        text = response.json()["choices"][0]["message"]["content"]
    assert text == "a\u20ac\ufffd\ufffd b "


def test_stop_token_that_has_a_text_is_left_out() -> None:
    script = [Token(0x61), Token(0x62, "stop")]
    pipeline = FakePipeline(script)
    reply = post(pipeline, PATH, {"messages": MESSAGES, "stop_token_ids": [0x62], "return_token_ids": True}).json()
    assert pipeline.requests[0].stop_tokens == (EOS, 0x62)
    assert reply["choices"][0]["message"]["content"] == "a"
    assert reply["choices"][0]["token_ids"] == [0x61, 0x62]


def test_stop_string_cancels_the_request() -> None:
    pipeline = FakePipeline([*spell("say END")[:-1], Token(ord("D")), Pause(60)])
    reply = post(pipeline, PATH, {"messages": MESSAGES, "stop": ["X", "END"]}).json()
    assert reply["choices"][0]["message"]["content"] == "say "
    assert reply["choices"][0]["finish_reason"] == "stop"
    assert reply["usage"]["completion_tokens"] == 7
    assert pipeline.cancelled == [pipeline.requests[0].id]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({}, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", id="plain"),
        pytest.param(
            {"messages": [{"role": "developer", "content": "Be brief"}, *MESSAGES]},
            "<|im_start|>system\nBe brief<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            id="developer is system",
        ),
        pytest.param(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]},
            "<|im_start|>user\na\nb<|im_end|>\n<|im_start|>assistant\n",
            id="parts",
        ),
        pytest.param(
            {
                "messages": [
                    *MESSAGES,
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}],
                    },
                    {"role": "tool", "content": "2", "tool_call_id": "c"},
                ]
            },
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n[x=1]<|im_end|>\n<|im_start|>tool\n2<|im_end|>\n"
            "<|im_start|>assistant\n",
            id="tool calls of before",
        ),
        pytest.param(
            {"tools": [{"type": "function"}], "tool_choice": "none"},
            '<|im_start|>tools\n[{"type": "function"}]<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n'
            "<|im_start|>assistant\n",
            id="tools only shown",
        ),
        pytest.param({"add_generation_prompt": False}, "<|im_start|>user\nHi<|im_end|>\n", id="no generation prompt"),
        pytest.param(
            {"messages": [*MESSAGES, {"role": "assistant", "content": "We"}], "continue_final_message": True},
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWe",
            id="goes on",
        ),
        pytest.param(
            {"chat_template_kwargs": {"enable_thinking": False}},
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<no_think>",
            id="variables",
        ),
        pytest.param(
            {"reasoning_effort": "low"},
            "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<effort low>",
            id="reasoning effort",
        ),
        pytest.param(
            {"add_special_tokens": True},
            "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
            id="special tokens asked for",
        ),
    ],
)
def test_prompt(body: dict, expected: str) -> None:
    assert prompt_of(**body) == expected


def test_settings_reach_the_pipeline() -> None:
    pipeline = FakePipeline(spell("a"))
    wanted = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2,
        "presence_penalty": 0.3, "frequency_penalty": -0.4, "seed": 11,
    }  # fmt: skip
    post(pipeline, PATH, {"messages": MESSAGES, "max_tokens": 9, **wanted})
    (request,) = pipeline.requests
    assert request.sampling == Sampling(**wanted)
    assert request.max_tokens == 9
    assert request.stop_tokens == (EOS,)


def test_request_before_checkpoint_before_openai() -> None:
    pipeline = FakePipeline(spell("a"))
    serving = app(pipeline, sampling=Sampling(temperature=0.6, top_p=0.95, top_k=40))
    call(serving, "POST", PATH, json={"messages": MESSAGES, "temperature": 0, "top_k": -1, "seed": -1})
    (request,) = pipeline.requests
    assert request.sampling == Sampling(temperature=0, top_p=0.95, top_k=0, seed=2**63 - 1)


def test_seed_is_drawn_for_each_request() -> None:
    pipeline = FakePipeline(spell("a"))
    for _ in range(3):
        post(pipeline, PATH, {"messages": MESSAGES})
    assert len({request.sampling.seed for request in pipeline.requests}) == 3


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, CONTEXT - 21),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 6),
        ({"max_tokens": CONTEXT - 21}, CONTEXT - 21),
    ],
    ids=json.dumps,
)
def test_max_tokens(fields: dict, expected: int) -> None:
    pipeline = FakePipeline(spell("a"))
    post(pipeline, PATH, {"messages": MESSAGES, **fields})
    assert pipeline.requests[0].max_tokens == expected


def test_ignored_end_of_sequence() -> None:
    pipeline = FakePipeline([Token(EOS), Token(0x61, "length")])
    reply = post(pipeline, PATH, {"messages": MESSAGES, "ignore_eos": True, "stop_token_ids": [7]}).json()
    assert pipeline.requests[0].stop_tokens == (7,)
    assert reply["choices"][0]["message"]["content"] == "a"


def test_a_turn_of_tool_calls_alone_has_an_empty_text() -> None:
    """Templates put texts together with `+`, which None would break."""
    pipeline = FakePipeline(spell("a"))
    template = "{% for message in messages %}{{ '<' + message.content + '>' }}{% endfor %}"
    turn = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    response = call(app(pipeline, template=template), "POST", PATH, json={"messages": [*MESSAGES, turn]})
    assert response.status_code == 200
    assert pipeline.requests[0].prompt == tuple(b"<Hi><>")


def test_the_pipeline_hears_where_a_conversation_may_be_shared_and_whether_it_has_to_repeat_itself() -> None:
    pipeline = FakePipeline(spell("a"))
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
    for fields in ({"messages": [system, user]}, {"messages": [system, user], "seed": 0}):
        assert post(pipeline, PATH, fields).status_code == 200
    plain, seeded = pipeline.requests
    before, after = (bytes(plain.prompt[:mark][i] % 256 for i in range(mark)) for mark in plain.marks)
    assert before.endswith(b"user\n")
    assert after[len(before) :].startswith(b"Hi")
    assert len(before) < len(after) < len(plain.prompt)
    assert (plain.repeatable, seeded.repeatable, seeded.marks) == (False, True, plain.marks)
