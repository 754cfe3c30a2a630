"""Hub ids, in processes of their own: huggingface_hub reads its environment when it is imported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import BASE, build, make, save_original
from tests.worker.hub_server import COMMIT, Hub, serving
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import fetch_stage
from worker.errors import UserError

SMALL = {**BASE, "hybrid_override_pattern": "ME*-"}
TELL = """
from worker.errors import UserError
from worker.checkpoint.hub import describe, fetch_stage, pinned
from worker.model.weights import load_stage
try:
    {code}
except UserError as error:
    print(error.message)
"""


def run(code: str, cache: Path, **settings: str) -> str:
    """What `code` prints."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **settings}
    command = [sys.executable, "-c", TELL.format(code=code)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=20)
    assert done.stderr == ""
    return done.stdout.strip()


def test_the_coordinator_fetches_no_weights_and_a_stage_its_own(tmp_path: Path) -> None:
    repository = save_original(tmp_path / "repository", SMALL, build(SMALL), files=40)
    (repository / "tokenizer.json").write_text("{}")
    (repository / "picture.png").write_text("")
    description = {"config.json", "model.safetensors.index.json", "tokenizer.json"}
    with serving(Hub(repository)) as hub:
        said = run("print(describe('someone/model').spec.pattern)", tmp_path / "cache", HF_ENDPOINT=hub.url)
        assert said == "ME*-"
        assert set(hub.downloads) == description
        told = run("print(pinned('someone/model', describe('someone/model')))", tmp_path / "cache", HF_ENDPOINT=hub.url)
        assert told == f"someone/model@{COMMIT}"  # a branch may move while the workers load
        hub.downloads.clear()
        code = "print(*load_stage(fetch_stage('someone/model', 2, 3), 2, 3).layers[0])"
        assert run(code, tmp_path / "cache", HF_ENDPOINT=hub.url) == "norm q_proj k_proj v_proj o_proj"
        assert sorted(hub.downloads) == Checkpoint(repository).files_of(2, 3)
        # once more, and without the hub
        assert run(code, tmp_path / "cache", HF_HUB_OFFLINE="1") == "norm q_proj k_proj v_proj o_proj"
        said = run("fetch_stage('someone/model', 1, 2)", tmp_path / "cache", HF_HUB_OFFLINE="1")
        assert said.startswith("someone/model: cannot be fetched from the Hugging Face hub: The cached snapshot for")


def test_a_model_of_one_file_is_fetched_and_checked(tmp_path: Path) -> None:
    repository = make(tmp_path / "repository", SMALL)
    (repository / "model.safetensors.index.json").unlink()
    with serving(Hub(repository)) as hub:
        code = f"print(describe('someone/model@{COMMIT}').spec.pattern)"
        assert run(code, tmp_path / "cache", HF_ENDPOINT=hub.url) == "ME*-"
        assert set(hub.downloads) == {"config.json", "model.safetensors"}
        path = repository / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        said = run("describe('someone/model')", tmp_path / "other", HF_ENDPOINT=hub.url)
        assert "its header promises" in said


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "GatedRepo", "accept its terms at https://huggingface.co/someone/model, then run `hf auth login`"),
        (404, "RepoNotFound", "there is no directory of that name either; if it is private, run `hf auth login`"),
        (404, "RevisionNotFound", "there is no directory of that name either; if it is private, run `hf auth login`"),
        (500, "", "check the network and HF_HUB_OFFLINE, or name the directory of a downloaded model"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, code: str, advice: str, tmp_path: Path) -> None:
    with serving(Hub(tmp_path, refusal=(status, code))) as hub:
        said = run("describe('someone/model')", tmp_path / "cache", HF_ENDPOINT=hub.url)
    assert said.startswith("someone/model: cannot be fetched from the Hugging Face hub: ")
    assert said.endswith(advice)


@pytest.mark.parametrize("settings", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:1"}])
def test_no_network_says_what_to_do(settings: dict[str, str], tmp_path: Path) -> None:
    said = run("describe('someone/model@v1')", tmp_path, **settings)
    assert said.startswith("someone/model@v1: cannot be fetched from the Hugging Face hub: ")
    assert said.endswith("check the network and HF_HUB_OFFLINE, or name the directory of a downloaded model")


@pytest.mark.parametrize("model", ["/nowhere", "./someone/model", "model", "a/b/c", "~no-such-user/model"])
def test_a_missing_directory_is_not_looked_up_in_the_hub(model: str) -> None:
    with pytest.raises(UserError, match="no such directory"):
        fetch_stage(model, 0, 1)


def test_the_coordinator_can_check_a_checkpoint_without_mlx(tmp_path: Path) -> None:
    make(tmp_path, SMALL)
    code = f"""
import sys
from worker.checkpoint.hub import describe
describe({str(tmp_path)!r})
print([name for name in sys.modules if name.split(".")[0] in ("mlx", "mlx_lm", "numpy", "transformers")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_a_file_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(UserError, match=r"model\.gguf: is a file; name its directory"):
        fetch_stage(str(tmp_path / "model.gguf"), 0, 1)


@pytest.mark.parametrize("model", ["a/b/c", "https://huggingface.co/a/b", "x" * 5000], ids=["path", "url", "long"])
def test_what_is_no_hub_id_is_told_what_one_looks_like(model: str) -> None:
    with pytest.raises(UserError, match="owner/name") as caught:
        fetch_stage(model, 0, 1)
    assert "\n" not in caught.value.message


def test_a_proxy_that_is_no_address(tmp_path: Path) -> None:
    said = run("describe('someone/model')", tmp_path, HTTPS_PROXY="http://proxy:port")
    assert said.startswith("someone/model: cannot be fetched from the Hugging Face hub: ")
    assert said.endswith("check HTTPS_PROXY, ALL_PROXY and HF_ENDPOINT")
