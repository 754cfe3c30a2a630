"""More requests than fit, requests that take too long or too much, and requests that somebody ends."""

import asyncio
import os
import random
import signal
import time

import httpx
import mlx.core as mx
import pytest

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, make
from tests.cluster.load import body, serve, settled, until
from tests.cluster.running import running
from tests.cluster.slowed import slow_down

VOCABULARY = {"vocab_size": 272, "eos_token_id": [256], "hybrid_override_pattern": "MEM*E-ME"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    directory = tmp_path_factory.mktemp("model")
    make(directory, BASE | VOCABULARY, dtype=mx.float32)
    write_tokenizer(directory)
    return directory


@pytest.mark.timeout(60)
def test_two_hundred_requests_at_once(model, tmp_path):
    places, queue = 16, 32
    settings = tmp_path / "cluster.toml"
    settings.write_text(f"heartbeat_timeout = 60.0\nmax_waiting = {queue}\n")
    with running(model, stages=2, arguments=["--config", str(settings)]) as cluster:
        victim = cluster.pids()[1]
        os.kill(victim, signal.SIGSTOP)  # so that nothing ends before all have come

        async def until_all_have_come(answers):
            try:
                await until(lambda: sum(answer.status == 429 for answer in answers) >= 200 - places - queue)
                await asyncio.sleep(0.2)
            finally:
                os.kill(victim, signal.SIGCONT)

        requests = [body([1, 2, 3], 20, temperature=1, seed=7) for _ in range(200)]
        answers = serve(cluster.url, requests, meanwhile=until_all_have_come)
        refused = [answer for answer in answers if answer.status == 429]
        served = [answer for answer in answers if answer.status == 200]
        assert (len(served), len(refused)) == (places + queue, 200 - places - queue)
        assert all(int(answer.retry_after) >= 1 for answer in refused)
        assert all(answer.finishes == ["length"] and len(answer.tokens) == 20 for answer in served)
        assert len({tuple(answer.tokens) for answer in served}) == 1
        settled(cluster)
        entry = served[0]
        assert cluster.complete([1, 2, 3], 20, temperature=1, seed=7, ignore_eos=True) == entry.tokens


def test_a_request_that_finds_no_place_in_time_is_told_so(model, tmp_path, monkeypatch):
    slow_down(monkeypatch, step=0.005)
    settings = tmp_path / "cluster.toml"
    settings.write_text("max_running = 1\nqueue_timeout = 0.6\nrequest_timeout = 1.5\n")
    with running(model, stages=2, arguments=["--config", str(settings)]) as cluster:
        runs, waits = serve(cluster.url, [body([1], 3000), body([2], 5)], delays=[0.0, 0.2])
        assert (waits.status, waits.tokens) == (504, [])
        assert runs.finishes == ["deadline_exceeded"]
        assert runs.tokens
        settled(cluster)


def test_a_request_that_fits_into_no_stage_is_refused_with_the_numbers(model, tmp_path):
    settings = tmp_path / "cluster.toml"
    settings.write_text("state_bytes = 1000000\n")
    with running(model, stages=2, arguments=["--config", str(settings)]) as cluster:
        refused = cluster.post("/v1/completions", prompt=[1], max_tokens=4000)
        assert refused.status_code == 400
        error = refused.json()["error"]
        assert error["code"] == "state_too_large"
        most = int(error["message"].rsplit("the most is ", 1)[1].split()[0])
        assert 0 < most < 4000
        assert cluster.post("/v1/completions", prompt=[1], max_tokens=most).status_code == 200
        assert cluster.post("/v1/completions", prompt=[1], max_tokens=most + 1).status_code == 400


def test_a_request_that_is_cancelled_by_name_leaves_every_stage(model, monkeypatch):
    slow_down(monkeypatch, step=0.005)
    with running(model, stages=3) as cluster:
        endings = []

        async def cancel(answers):
            async with httpx.AsyncClient(timeout=20, trust_env=False) as client:
                await until(lambda: all(len(answer.times) > 3 for answer in answers))
                (request,) = (await client.get(f"{cluster.url}/cluster")).json()["requests"]
                ended = await client.delete(f"{cluster.url}/requests/{request['id']}")
                endings.append(ended.json())
                assert ended.status_code == 200

        (answer,) = serve(cluster.url, [body([1, 2], 3000)], meanwhile=cancel)
        assert answer.finishes == ["request_cancelled"]
        assert [stage["stage"] for stage in endings[0]["stages"]] == [0, 1, 2]
        settled(cluster)
        again = cluster.client.delete(f"{cluster.url}/requests/{endings[0]['id']}").json()
        assert (again["state"], again["finish_reason"]) == ("ended", "cancelled")
        assert cluster.client.delete(f"{cluster.url}/requests/nobody").status_code == 404


@pytest.mark.timeout(60)
def test_seeded_tokens_depend_neither_on_neighbours_nor_on_a_restart(model, monkeypatch):
    slow_down(monkeypatch, step=0.002)
    rng = random.Random(1)
    requests = [
        body(
            [rng.randrange(256) for _ in range(rng.choice([1, 5, 70, 150]))],
            rng.randint(5, 40),
            temperature=rng.choice([0.7, 1.0, 1.3]),
            top_p=rng.choice([0.8, 1.0]),
            seed=number,
        )
        for number in range(10)
    ]
    with running(model, stages=3, arguments=["--prefill-chunk", "64"]) as cluster:
        alone = [serve(cluster.url, [request])[0].tokens for request in requests]

        async def some_leave(answers):
            async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
                for number in range(4):
                    await asyncio.sleep(rng.uniform(0, 0.1))
                    with pytest.raises(httpx.ReadTimeout):
                        await client.post(
                            f"{cluster.url}/v1/completions",
                            json=body([number] * 40, 2000, stream=False),
                            timeout=0.15,
                        )

        delays = [rng.uniform(0, 0.5) for _ in requests]
        together = serve(cluster.url, requests, delays, meanwhile=some_leave)
        assert [answer.tokens for answer in together] == alone
        settled(cluster)
        os.kill(cluster.pids()[1], signal.SIGKILL)
        while cluster.get("/ready").status_code == 200:
            time.sleep(0.01)
        cluster.wait_until_ready()
        assert [answer.tokens for answer in serve(cluster.url, requests)] == alone
