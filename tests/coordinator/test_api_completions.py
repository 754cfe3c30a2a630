import json

import pytest

from coordinator.request import Token
from tests.coordinator.serving import CONTEXT, post
from tests.fakes.pipeline import FakePipeline, spell
from tests.tokenizer_files import BOS, EOS

PATH = "/v1/completions"


def test_whole_answer() -> None:
    reply = post(FakePipeline(spell("H\u00e9!")), PATH, {"prompt": "Hi", "model": "org/tiny"}).json()
    assert reply.pop("id").startswith("cmpl-")
    assert reply.pop("created") > 1_700_000_000
    assert reply == {
        "object": "text_completion",
        "model": "org/tiny",
        "choices": [{"index": 0, "text": "H\u00e9!", "logprobs": None, "finish_reason": "length"}],
        "usage": {
            "prompt_tokens": 3,
            "completion_tokens": 4,
            "total_tokens": 7,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    }


def test_token_ids_are_where_vllm_has_them() -> None:
    script = [Token(0x61), Token(EOS, "stop")]
    reply = post(FakePipeline(script), PATH, {"prompt": "Hi", "return_token_ids": True}).json()
    (choice,) = reply["choices"]
    assert choice["token_ids"] == [0x61, EOS]
    assert choice["prompt_token_ids"] == [BOS, ord("H"), ord("i")]
    assert "prompt_token_ids" not in reply


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        pytest.param({"prompt": "Hi"}, (BOS, 72, 105), id="text"),
        pytest.param({"prompt": ["Hi"]}, (BOS, 72, 105), id="one text in a list"),
        pytest.param({"prompt": "Hi", "add_special_tokens": False}, (72, 105), id="no special tokens"),
        pytest.param({"prompt": ""}, (BOS,), id="only what the tokenizer adds"),
        pytest.param({"prompt": [72, 105]}, (72, 105), id="ids as they are"),
        pytest.param({"prompt": [[72, 105]]}, (72, 105), id="one list of ids in a list"),
        pytest.param({"prompt": "<|im_end|>\u20ac"}, (BOS, 259, 0xE2, 0x82, 0xAC), id="special token in the text"),
    ],
)
def test_prompt(fields: dict, expected: tuple[int, ...]) -> None:
    pipeline = FakePipeline(spell("a"))
    assert post(pipeline, PATH, fields).status_code == 200
    assert pipeline.requests[0].prompt == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"prompt": "Hi"}, 16),
        ({"prompt": "Hi", "max_tokens": 40}, 40),
        ({"prompt": [1] * (CONTEXT - 5)}, 5),
        ({"prompt": [1] * (CONTEXT - 1)}, 1),
    ],
    ids=["default", "given", "as far as there is room", "one"],
)
def test_max_tokens(fields: dict, expected: int) -> None:
    pipeline = FakePipeline(spell("a"))
    assert post(pipeline, PATH, fields).status_code == 200
    assert pipeline.requests[0].max_tokens == expected


def test_usage_is_the_last_chunk() -> None:
    body = {"prompt": "Hi", "stream": True, "stream_options": {"include_usage": True}}
    response = post(FakePipeline(spell("ab")), PATH, body)
    *chunks, last, done = [line[6:] for line in response.text.splitlines() if line]
    assert done == "[DONE]"
    assert all(json.loads(chunk)["usage"] is None for chunk in chunks)
    assert json.loads(last)["choices"] == []
    assert json.loads(last)["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


@pytest.mark.parametrize(
    ("path", "body"),
    [(PATH, {"prompt": "Hi"}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]})],
    ids=["completion", "chat"],
)
def test_what_was_known_of_the_prompt_is_counted(path: str, body: dict) -> None:
    script = [Token(0x61, cached=2), Token(0x62), Token(EOS, "stop")]
    usage = post(FakePipeline(script), path, body).json()["usage"]
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}
    streamed = post(FakePipeline(script), path, body | {"stream": True, "stream_options": {"include_usage": True}})
    last = json.loads(streamed.text.split("\n\n")[-3].removeprefix("data: "))
    assert last["usage"] == usage
