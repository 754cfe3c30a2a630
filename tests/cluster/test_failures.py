"""What users live through when a stage dies or the cluster is told to stop. Real processes on loopback."""

import os
import signal
import time

import mlx.core as mx
import pytest

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, make
from tests.cluster.load import settled
from tests.cluster.running import alive, events, running

LONG = {"prompt": "once upon a time", "max_tokens": 4000, "temperature": 0, "ignore_eos": True, "stream": True}


@pytest.fixture(scope="module")
def cluster():
    with running(stages=3) as cluster:
        yield cluster


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_killed_stage_ends_the_stream_with_an_error_and_comes_back(cluster, stage):
    expected = cluster.complete("hello", 12)
    victim = cluster.pids()[stage]
    with cluster.client.stream("POST", f"{cluster.url}/v1/completions", json=LONG) as response:
        stream = events(response)
        for _ in range(5):
            assert next(stream)[0] == "message"
        os.kill(victim, signal.SIGKILL)
        killed = time.monotonic()
        rest = list(stream)
        assert time.monotonic() - killed < 2
    name, data = rest[-1]
    assert name == "error"
    assert f"stage {stage} (layers" in data["error"]["message"]
    assert all(name == "message" and data != "[DONE]" for name, data in rest[:-1])
    unready = cluster.get("/ready")
    assert unready.status_code == 503
    assert f"stage {stage}" in unready.text
    cluster.wait_until_ready()
    after = cluster.cluster()
    assert after["stages"][stage]["pid"] not in (None, victim)
    assert after["stages"][stage]["restarts"] == 1
    assert cluster.complete("hello", 12) == expected


def test_a_request_while_a_stage_is_down_is_told_which_one(cluster):
    os.kill(cluster.pids()[1], signal.SIGKILL)
    deadline = time.monotonic() + 2
    while (answer := cluster.post("/v1/completions", prompt="x", max_tokens=1)).status_code == 200:
        assert time.monotonic() < deadline
    assert answer.status_code in (502, 503)
    assert "stage 1 (layers" in answer.json()["error"]["message"]
    cluster.wait_until_ready()


def test_a_client_that_leaves_frees_its_place_on_every_stage(cluster):
    with cluster.client.stream("POST", f"{cluster.url}/v1/completions", json=LONG) as response:
        next(events(response))
        assert cluster.cluster()["running"] == 1
    settled(cluster)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_stopping_ends_streams_processes_and_socket_files(stop):
    with running(stages=2, stop=stop) as cluster:
        directory = cluster.runtime_directory()
        pids = cluster.pids()
        with cluster.client.stream("POST", f"{cluster.url}/v1/completions", json=LONG) as response:
            stream = events(response)
            next(stream)
            began = time.monotonic()
            cluster.process.send_signal(stop)
            assert list(stream)[-1][0] == "error"
        assert cluster.process.wait(timeout=10) == 0
        assert time.monotonic() - began < 10
        assert not directory.exists()
        assert not any(map(alive, pids))


def test_workers_leave_when_the_coordinator_is_killed():
    with running(stages=2) as cluster:
        pids = cluster.pids()
        directory = cluster.runtime_directory()
        os.kill(cluster.process.pid, signal.SIGKILL)
        cluster.process.wait()
        deadline = time.monotonic() + 8
        while any(map(alive, pids)) or directory.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_stopped_process_is_ended_and_started_again(tmp_path):
    settings = tmp_path / "cluster.toml"
    settings.write_text("heartbeat_timeout = 2.0\n")
    with running(stages=2, arguments=["--config", str(settings)]) as cluster:
        victim = cluster.pids()[1]
        os.kill(victim, signal.SIGSTOP)
        deadline = time.monotonic() + 6
        while cluster.get("/ready").status_code == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        cluster.wait_until_ready()
        assert not alive(victim)
        assert cluster.complete("hello", 4)


def test_a_stage_does_not_come_back_with_another_model(tmp_path):
    """Half of each would answer nonsense."""
    served, other = tmp_path / "served", tmp_path / "other"
    for number, directory in enumerate((served, other)):
        directory.mkdir()
        make(directory, BASE | {"vocab_size": 272, "eos_token_id": [256]}, dtype=mx.float32, seed=number)
        write_tokenizer(directory)
    with running(served, stages=2) as cluster:
        os.replace(other / "model.safetensors", served / "model.safetensors")
        os.kill(cluster.pids()[1], signal.SIGKILL)
        assert cluster.process.wait(timeout=15) == 2
        assert f"{served}: another model than the one this cluster began with" in cluster.log
