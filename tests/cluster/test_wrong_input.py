"""`stageline up` with what cannot work: one clear line, exit status 2, and nothing left running."""

import json
import os
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import pytest

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, build, edit_config, edit_tensors, make, save_original
from tests.cluster.running import COMMAND, running

pytestmark = pytest.mark.timeout(60)


def model_in(directory):
    make(directory, BASE | {"vocab_size": 272})
    write_tokenizer(directory)
    return directory


def up(*arguments):
    """Exit status and last line on stderr."""
    done = subprocess.run(
        [*COMMAND, "up", "--port", "0", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr.strip().splitlines()[-1]


def truncate(directory):
    path = directory / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1000)


def noise(directory):
    (directory / "model.safetensors").write_bytes(b"\x00\xff" * 500)


def rewrite(name, content):
    return lambda directory: (directory / name).write_text(content)


BROKEN = {
    "no config": (lambda d: (d / "config.json").unlink(), "no config.json"),
    "config is no JSON": (rewrite("config.json", "{"), "config.json: not JSON"),
    "another architecture": (lambda d: edit_config(d, model_type="llama"), "model_type is 'llama'"),
    "unknown layer kind": (lambda d: edit_config(d, hybrid_override_pattern="MEX-ME"), "of kind 'X'"),
    "truncated weights": (truncate, "model.safetensors"),
    "weights are noise": (noise, "model.safetensors"),
    "missing tensor": (lambda d: edit_tensors(d, {"backbone.layers.1.mixer.gate.weight": None}), "layers.1.mixer.gate"),
    "surplus tensor": (lambda d: edit_tensors(d, {"backbone.layers.9.x": mx.zeros(1)}), "backbone.layers.9.x"),
    "wrong shape": (
        lambda d: edit_tensors(d, {"backbone.layers.0.norm.weight": mx.zeros(5, mx.bfloat16)}),
        "backbone.layers.0.norm.weight",
    ),
    "no tokenizer": (lambda d: (d / "tokenizer.json").unlink(), "tokenizer.json"),
    "tokenizer is no JSON": (rewrite("tokenizer.json", "{}"), "cannot load the tokenizer"),
    "generation config is no JSON": (rewrite("generation_config.json", "["), "generation_config.json"),
}


WRONG = [
    (["/nonexistent/model"], "/nonexistent/model"),
    (["--stages", "15"], "15 stages for 14 layers"),
    (["--stages", "0"], "--stages"),
    (["--stages", "two"], "--stages"),
    (["--port", "70000"], "--port"),
    (["--context", "100000"], "8192 tokens"),
    (["--context", "1"], "`int` >= 2"),
    (["--host", "0.0.0.0"], "--insecure"),
    (["--host", "no.such.host.invalid"], "no.such.host.invalid: no such name"),
    (["--host", "a..b"], "a..b: no such name"),
    (["--prefill-chunk", "100000000"], "fit into one message"),
    (["x" * 5000], "owner/name"),
    (["--quantize", "8:32"], "quantised already"),
    (["--quantize", "9:32"], "--quantize"),
    (["--config", "/nonexistent.toml"], "/nonexistent.toml"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """What becomes of every command, two of them at a time."""
    commands = [arguments for arguments, _ in WRONG]
    for damage, _ in BROKEN.values():
        directory = model_in(tmp_path_factory.mktemp("model"))
        damage(directory)
        commands.append([directory])
    with ThreadPoolExecutor(2) as pool:
        endings = [pool.submit(up, *arguments) for arguments in commands]
    return dict(zip([*map(name_of, commands[: len(WRONG)]), *BROKEN], endings, strict=True))


def name_of(arguments):
    return " ".join(arguments)[:40]


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints(ended, name):
    status, line = ended[name].result()
    assert (status, BROKEN[name][1] in line) == (2, True), line


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda value: name_of(value) if isinstance(value, list) else ""
)
def test_wrong_options(ended, arguments, message):
    status, line = ended[name_of(arguments)].result()
    assert (status, message in line) == (2, True), line


def test_tensors_that_are_left_out_are_counted(tmp_path):
    config = BASE | {"vocab_size": 272}
    save_original(tmp_path, config, build(config))
    write_tokenizer(tmp_path)
    with running(tmp_path, stages=1) as cluster:
        assert "1 tensors for multi-token prediction are left out" in cluster.log


def test_a_port_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, line = up("--port", port)
        assert (status, f"port {port}" in line) == (2, True), line


def test_a_worker_that_cannot_load_ends_up_with_its_words(tmp_path):
    """The coordinator checks headers; what only reading shows is found by the worker."""
    model = model_in(tmp_path)
    with running(model, stages=2) as cluster:
        assert cluster.complete([1, 2, 3], 2)
        (model / "config.json").write_text(json.dumps({"model_type": "llama"}))
        os.kill(cluster.pids()[1], 9)
        assert cluster.process.wait(timeout=15) == 2
        assert "model_type is 'llama'" in cluster.log
        assert "Traceback" not in cluster.log
