import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from coordinator.demo import (
    END_OF_TEXT,
    MESSAGE_END,
    MESSAGE_START,
    SPECIAL_TOKENS,
    VOCAB_SIZE,
    demo_model,
    made_model,
    write_tokenizer,
)
from worker.errors import ClusterError, ConfigError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def loaded(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(directory))


# a lone `<` cannot spell a special token; those have their own test
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<")))
def test_byte_b_is_token_b(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert ids == list(text.encode())
    assert tokenizer.decode(ids) == text


def test_every_byte_is_a_token(tokenizer: Tokenizer) -> None:
    text = bytes(range(256)).decode("latin-1")  # every byte of one and of two byte characters up to U+00FF
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    vocabulary = tokenizer.get_vocab(with_added_tokens=False)
    assert sorted(vocabulary.values()) == list(range(256))


def test_special_tokens(tokenizer: Tokenizer) -> None:
    assert tokenizer.get_vocab_size() == VOCAB_SIZE == 272
    ids = [tokenizer.token_to_id(text) for text in SPECIAL_TOKENS]
    assert ids == list(range(256, 272))
    assert ids[:3] == [END_OF_TEXT, MESSAGE_START, MESSAGE_END]
    assert tokenizer.encode("a<|im_end|>b").ids == [97, MESSAGE_END, 98]
    assert tokenizer.decode([97, MESSAGE_END, 98]) == "ab"


def test_transformers_reads_it(loaded: Any) -> None:
    text = "  leading, 漢字 🎉\n\n\x00\x85\u2028 n't ."
    assert loaded.encode(text) == list(text.encode())
    assert loaded.decode(list(text.encode())) == text
    assert len(loaded) == VOCAB_SIZE
    assert (loaded.eos_token_id, loaded.pad_token_id) == (MESSAGE_END, END_OF_TEXT)


@pytest.mark.parametrize("prompt", [True, False], ids=["prompt", "history"])
def test_chat_template(loaded: Any, prompt: bool) -> None:
    messages = [{"role": "system", "content": " be brief\n"}, {"role": "user", "content": "hi"}]
    text = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    history = "<|im_start|>system\n be brief\n<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    assert text == history + ("<|im_start|>assistant\n" if prompt else "")


MAKE = """
import sys
from pathlib import Path
from coordinator.demo import demo_model
print(demo_model(Path(sys.argv[1])))
"""


def test_two_processes_at_once_make_one(tmp_path: Path) -> None:
    makers = [
        subprocess.Popen([sys.executable, "-c", MAKE, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    paths = [Path(maker.communicate()[0].strip()) for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0]
    assert paths[0] == paths[1]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == [paths[0].name, "lock"]
    assert json.loads((paths[0] / "config.json").read_text())["vocab_size"] == VOCAB_SIZE


def test_made_once_and_again_only_if_damaged(tmp_path: Path) -> None:
    made = demo_model(tmp_path)
    contents = {file.name: file.read_bytes() for file in made.iterdir()}
    marks = {file.name: file.stat().st_ino for file in made.iterdir()}
    assert demo_model(tmp_path) == made
    assert {file.name: file.stat().st_ino for file in made.iterdir()} == marks

    weights = next(file for file in made.iterdir() if file.suffix == ".safetensors")
    os.truncate(weights, 100)
    (made.parent / "making-abandoned").mkdir()
    assert demo_model(tmp_path) == made
    assert {file.name: file.read_bytes() for file in made.iterdir()} == contents
    assert not (made.parent / "making-abandoned").exists()


def test_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write the demo model to .*XDG_CACHE_HOME"):
        demo_model(tmp_path / "file")


def test_failure_to_make_the_weights_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ClusterError, match=r"cannot make the demo model's weights: .*worker\.demo demo .* status 1"):
        demo_model(tmp_path)
    assert [path.name for path in (tmp_path / "stageline-demo").iterdir()] == ["lock"]


@pytest.mark.parametrize(
    ("preset", "digest"),
    [("demo", "80f02078638752cd"), ("bench", "bf727debb23e8e79")],
)
def test_version_stands_for_these_bytes(preset: str, digest: str, tmp_path: Path) -> None:
    """A cache keeps what an older Stageline made: with other bytes comes another VERSION, and its digests here."""
    made = made_model(preset, tmp_path)
    content = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(made.iterdir())))
    assert (made.name, content.hexdigest()[:16]) == ("2", digest)
