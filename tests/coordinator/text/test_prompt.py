import asyncio
import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import normalizers
from transformers import AutoTokenizer

from coordinator.api.app import create_app
from coordinator.text.prompt import PromptCodec
from tests.coordinator.serving import codec, model
from tests.fakes.pipeline import FakePipeline, spell
from tests.tokenizer_files import BOS, EOS, byte_level, byte_level_with_merges, save
from worker.errors import CheckpointError, UserError

ROOT = Path(__file__).parents[3]
CHAT = [{"role": "system", "content": "Be  brief\n"}, {"role": "user", "content": " <|im_end|> \u20ac "}]


@cache
def reference() -> Any:
    with TemporaryDirectory() as directory:
        return AutoTokenizer.from_pretrained(save(byte_level(), Path(directory)))


@pytest.fixture(params=["in the config", "in its own file"])
def checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return save(byte_level_with_merges(), tmp_path, own_file=request.param == "in its own file")


@pytest.mark.parametrize("variables", [{}, {"enable_thinking": False}])
@pytest.mark.parametrize("prompt", [True, False], ids=["generation prompt", "none"])
def test_template_is_rendered_as_transformers_does(checkpoint: Path, prompt: bool, variables: dict[str, Any]) -> None:
    transformers = AutoTokenizer.from_pretrained(checkpoint)
    rendered = PromptCodec.load(checkpoint).render(CHAT, add_generation_prompt=prompt, variables=variables)
    assert rendered == transformers.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=prompt, **variables)
    assert rendered.startswith(
        "<|im_start|>system\nBe  brief\n<|im_end|>\n<|im_start|>user\n <|im_end|> \u20ac <|im_end|>"
    )


def test_chat_is_encoded_as_transformers_does(checkpoint: Path) -> None:
    transformers = AutoTokenizer.from_pretrained(checkpoint)
    own = PromptCodec.load(checkpoint)
    ids = own.encode(own.render(CHAT), add_special_tokens=False)
    assert list(ids) == transformers.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)


@given(text=st.text())
def test_text_is_encoded_with_the_special_tokens_of_the_tokenizer(text: str) -> None:
    assert codec().encode(text, add_special_tokens=True) == (BOS, *text.encode())
    assert codec().encode(text, add_special_tokens=False) == tuple(text.encode())
    places = range(len(text) + 1)
    ids, marks = codec().encode_marked(text, places, add_special_tokens=True)
    assert marks == tuple(1 + len(text[:place].encode()) for place in places)
    assert ids == (BOS, *text.encode())


def test_settings_of_training_do_not_cut_a_prompt(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=8)
    own = PromptCodec.load(save(tokenizer, tmp_path))
    assert own.encode("abcdef", add_special_tokens=False) == tuple(b"abcdef")
    assert own.encode("a", add_special_tokens=False) == tuple(b"a")


@given(ids=st.lists(st.integers(0, 265), max_size=12))
def test_text_is_decoded_as_transformers_does(ids: list[int]) -> None:
    detokenizer = codec().detokenizer()
    text = "".join(map(detokenizer.push, ids)) + detokenizer.flush()
    assert text == reference().decode(ids, skip_special_tokens=True)


def test_end_token() -> None:
    assert codec().end_token == EOS


def test_template_speaks_for_itself() -> None:
    with pytest.raises(UserError, match="a chat cannot begin with the assistant"):
        codec().render([{"role": "assistant", "content": "x"}])


@pytest.mark.parametrize("template", ["{{ messages[0].content + 1 }}", "{{ nothing.at_all }}"])
def test_template_that_fails_is_a_refusal(template: str) -> None:
    assert codec(template).template_problem is None
    with pytest.raises(UserError, match=r"chat template fails on these: (Type|Undefined)Error"):
        codec(template).render(CHAT)


def test_broken_template_does_not_blame_the_messages() -> None:
    with pytest.raises(UserError, match=r"chat template is broken \(line 1: .*/v1/completions"):
        codec("{% if %}").render(CHAT)


def test_a_template_is_not_run_before_it_is_needed() -> None:
    assert codec("{{ raise_exception('no') }}").template_problem is None


@given(text=st.text())
def test_least_tokens_is_a_lower_bound(text: str) -> None:
    own = merging()
    assert own.least_tokens(text) <= len(own.encode(text, add_special_tokens=False))


def test_least_tokens_grows_with_the_text() -> None:
    assert merging().least_tokens("x" * 1200) == 100  # the longest token is <|im_start|>


def test_least_tokens_where_a_token_has_no_limit(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.Strip()
    assert PromptCodec.load(save(tokenizer, tmp_path)).least_tokens("x" * 1200) == 0


@cache
def merging() -> PromptCodec:
    with TemporaryDirectory() as directory:
        return PromptCodec.load(save(byte_level_with_merges(), Path(directory)))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_pipe_is_not_waited_for(name: str, tmp_path: Path) -> None:
    save(byte_level(), tmp_path, own_file=True)
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match=rf"{name}: is not a regular file"):
        PromptCodec.load(tmp_path)


def test_broken_tokenizer_config(tmp_path: Path) -> None:
    save(byte_level(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config\.json: not JSON"):
        PromptCodec.load(tmp_path)


def test_no_template() -> None:
    assert not codec(None).has_chat_template
    with pytest.raises(UserError, match="/v1/completions"):
        codec(None).render(CHAT)


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "tools", "add_generation_prompt"])
def test_variable_names_of_transformers_are_taken(name: str) -> None:
    with pytest.raises(UserError, match=name):
        codec().render(CHAT, variables={name: True})


def test_missing_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is missing"):
        PromptCodec.load(tmp_path)


def test_broken_tokenizer(tmp_path: Path) -> None:
    save(byte_level(), tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot load the tokenizer .*tokenizer\.json: "):
        PromptCodec.load(tmp_path)


def test_transformers_is_quiet_beside_a_package_called_kernels(tmp_path: Path) -> None:
    save(byte_level(), tmp_path)
    code = (
        "import kernels, sys; from pathlib import Path; from coordinator.text.prompt import PromptCodec\n"
        "assert 'transformers' not in sys.modules\n"
        "PromptCodec.load(Path(sys.argv[1])).render([{'role': 'user', 'content': 'a'}])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    async def count() -> int:
        work = asyncio.create_task(asyncio.to_thread(codec().encode, "the " * 100_000, add_special_tokens=False))
        turns = 0
        while not work.done():
            await asyncio.sleep(0.001)
            turns += 1
        return turns

    assert asyncio.run(count()) > 10


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "Hi"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
    ],
)
def test_event_loop_runs_while_a_prompt_is_made(path: str, body: dict[str, Any], tmp_path: Path) -> None:
    go_on = threading.Event()

    class WaitingCodec(PromptCodec):
        def encode_marked(self, *arguments: Any, **options: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
            assert go_on.wait(5)  # set by the event loop, which must not be the one that waits
            return super().encode_marked(*arguments, **options)

    waiting = WaitingCodec.load(save(byte_level(), tmp_path))
    served = msgspec.structs.replace(model(), codec=waiting)
    pipeline = FakePipeline(spell("a"))
    serving = create_app(model=served, pipeline=pipeline, observer=pipeline.observer, api_key=None)

    async def scenario() -> tuple[httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(serving), base_url="http://test") as client:
            asking = asyncio.create_task(client.post(path, json=body))
            health = await client.get("/health")
            go_on.set()
            return health, await asking

    health, answer = asyncio.run(scenario())
    assert (health.status_code, answer.status_code) == (200, 200)
