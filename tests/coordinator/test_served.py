import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.served import ServedModel, load_served_model
from tests.tokenizer_files import EOS, byte_level, save
from worker.errors import CheckpointError
from worker.protocol import Sampling
from worker.spec import ModelSpec

SPEC = ModelSpec(hidden_size=8, vocab_size=300, context_length=64, norm_eps=1e-5, layers=(), eos_token_ids=(2,))


def load(directory: Path, config: Any = None) -> ServedModel:
    save(byte_level(), directory)
    if config is not None:
        text = config if isinstance(config, str) else json.dumps(config)
        (directory / "generation_config.json").write_text(text, encoding="utf-8")
    return load_served_model(directory, name="tiny", spec=SPEC, context=32, answer_tokens=16)


def test_without_a_generation_config(tmp_path: Path) -> None:
    served = load(tmp_path)
    assert (served.name, served.context, served.vocab_size) == ("tiny", 32, 300)
    assert served.end_tokens == (2, EOS)
    assert served.sampling == Sampling()


@pytest.mark.parametrize(
    ("config", "sampling"),
    [
        ({"do_sample": True, "_from_model_config": True}, Sampling()),
        ({"temperature": 0.6, "top_p": 0.95, "top_k": 20, "min_p": 0.05, "repetition_penalty": 1.1},
         Sampling(temperature=0.6, top_p=0.95, top_k=20, min_p=0.05, repetition_penalty=1.1)),
        ({"temperature": None, "top_k": -1}, Sampling()),
    ],
    ids=["neither", "sampling", "nothing"],
)  # fmt: skip
def test_generation_config(tmp_path: Path, config: dict, sampling: Sampling) -> None:
    served = load(tmp_path, config)
    assert served.sampling == sampling


@pytest.mark.parametrize("config", ["{", {"temperature": "hot"}, {"top_p": 2}, []], ids=json.dumps)
def test_broken_generation_config(tmp_path: Path, config: Any) -> None:
    with pytest.raises(CheckpointError, match=r"generation_config\.json"):
        load(tmp_path, config)


def test_a_broken_template_is_found_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(byte_level(), tmp_path, template="{% if %}")
    load_served_model(tmp_path, name="tiny", spec=SPEC, context=32, answer_tokens=16)
    (record,) = caplog.records
    assert "chat requests will be refused: the chat template is broken (line 1: " in record.getMessage()
