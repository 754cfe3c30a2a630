"""`stageline bench` where there is no GPU, and its tables."""

import json
import subprocess
import sys

import msgspec
import pytest
from rich.console import Console

from coordinator.cli import run
from coordinator.commands import bench_kernels
from coordinator.commands.bench_kernels import Report, Row, Way
from coordinator.commands.running import failure
from tests.coordinator.scripted import Answer, as_error, serving
from worker.errors import UserError


def report(**changes: object) -> Report:
    stock, fused = Way(2e-5, 3, 1e12, 0.25), Way(1e-5, 1, 2e12, 0.5)
    rows = [
        Row("norm, in_proj", "64 -> 128", 20_000_000, stock, fused, 2.0),
        Row("head", "64 -> 9", 5, stock, why="odd"),
    ]
    made = Report(
        "Some GPU", "cuda", "MLX has one", "demo", "8:32", 1, 4e12, {"odd": 1}, rows, [row.name for row in rows]
    )
    return msgspec.structs.replace(made, **changes)


def shown(what: Report) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        bench_kernels._show(what, console)
    return capture.get()


def test_table_of_kernels() -> None:
    text = shown(report())
    assert "Some GPU: kernels run as cuda, MLX has one" in text
    assert "read bandwidth 4000 GB/s" in text
    (row,) = (line for line in text.splitlines() if "in_proj" in line)
    cells = [cell.strip() for cell in row.split("  ") if cell.strip()]
    assert cells == ["norm, in_proj", "64 -> 128", "1", "10.0", "20.0", "2000", "50%", "20.0", "3", "2.00"]
    assert "left to MLX: 1 of 2 operations, odd" in text


def test_without_a_gpu_the_table_says_so() -> None:
    text = shown(report(device="cpu", backend="reference", why="MLX has no GPU here", read_bytes_per_second=None))
    assert "cpu: no kernel is live, MLX has no GPU here" in text
    assert "bandwidth" not in text


@pytest.mark.timeout(60)
def test_kernels_of_the_demo_model_here() -> None:
    """The whole command; on a GPU the kernels as well."""
    options = ["--preset", "demo", "--calls", "2", "--rounds", "1", "--json"]
    command = [sys.executable, "-m", "coordinator.cli", "bench", "kernels", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    made = msgspec.json.decode(done.stdout, type=Report)
    assert {"Mamba layer", "expert layer", "attention layer", "norm, head"} <= {row.name for row in made.rows}
    assert all(row.stock.seconds > 0 and row.bytes > 0 for row in made.rows)
    assert (made.backend == "reference") == (made.read_bytes_per_second is None)
    assert made.fallbacks == {}


@pytest.mark.timeout(60)
def test_a_format_without_kernels_is_counted() -> None:
    options = ["--preset", "demo", "--quantize", "3:32", "--rounds", "1", "--json"]
    command = [sys.executable, "-m", "worker.bench_kernels", *options[:-1]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    fallbacks = json.loads(done.stdout)["fallbacks"]
    assert fallbacks["in_proj: its format is affine, 3 bits, group 32"] == 1
    assert len(fallbacks) == 4  # a layer of each kind, and the head


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--preset", "huge"], "no preset 'huge'"),
        (["--quantize", "9:7"], "--quantize '9:7'"),
        (["--quantize", "mxfp4"], "random weights are measured in the formats BITS:GROUP"),
        (["--quantize", "nvfp4"], "random weights are measured in the formats BITS:GROUP"),
        (["--quantize", "mxfp8"], "random weights are measured in the formats BITS:GROUP"),
        (
            ["--preset", "demo", "--calls", "1", "--rounds", "1", "--only", "zzz"],
            "--only 'zzz': no operation's name contains it; there are: norm, in_proj; ",
        ),
    ],
    ids=["preset", "quantize", "mxfp4", "nvfp4", "mxfp8", "only"],
)
def test_wrong_options(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "kernels", *options]) == 2
    assert said in capsys.readouterr().err


def test_decode_of_a_format_that_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "decode", "--preset", "demo", "--quantize", "mxfp8"]) == 2
    assert "random weights are measured in the formats BITS:GROUP" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["decode", "serve"])
def test_a_wrong_model_is_the_users_mistake(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In the words of the process that found it."""
    assert run(["bench", what, "/nonexistent"]) == 2
    assert capsys.readouterr().err.startswith("stageline: error: /nonexistent: no such directory")


def test_other_ends_of_a_process_are_ours() -> None:
    assert isinstance(failure(["x"], 2, "loading\nstageline: error: too many"), UserError)
    assert failure(["x"], 2, "loading\nstageline: error: too many").message == "too many"
    assert failure(["x", "y"], 1, "").message == "`x y` ended with status 1: it said nothing"
    assert failure(["x"], None, "odd").message == "`x` did not get ready: odd"
    assert failure(["x"], 1, "").exit_status == failure(["x"], None, "").exit_status == 1


def serve(*options: str) -> int:
    return run(["bench", "serve", "--requests", "2", *options])


@pytest.mark.parametrize("url", ["foo", "localhost:8000", "ftp://host"])
def test_an_address_to_measure_is_checked(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--against", url) == 2
    assert f"--against {url!r}: " in capsys.readouterr().err


@pytest.mark.parametrize("key", ["gehe\u00efm", "se\ncret"])
def test_a_key_that_no_header_carries_is_not_shown(key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert serve("--against", "http://127.0.0.1:1", "--api-key", key) == 2
    said = capsys.readouterr().err
    assert "printable ASCII" in said
    assert key not in said


@pytest.mark.parametrize(
    ("answers", "status"),
    [([404], 2), ([413], 2), ([429], 1), ([500], 1), ([404, 404, 429], 1)],
    ids=["no such model", "too long", "full", "broken", "some of each"],
)
def test_what_the_server_calls_wrong_is_the_users_mistake(
    answers: list[int], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    said: dict[str, Answer | list[Answer]] = {
        "POST /v1/completions": [as_error("model 'nope' is not served", answer) for answer in answers],
        "GET /cluster": as_error("no such page", 404),
    }
    with serving(said) as server:
        assert serve("--against", server.url, "--model-name", "nope") == status
    said_of = {f"no request was answered; {answer}: model 'nope'" for answer in answers}  # requests race
    err = capsys.readouterr().err
    assert any(words in err for words in said_of)


def test_a_preset_cut_before_its_first_attention_layer_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "decode", "--preset", "demo", "--layers", "5"]) == 2
    assert "the first 6 layers have one" in capsys.readouterr().err
