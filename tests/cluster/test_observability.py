"""What can be seen of a running cluster, and that it is true: metrics, targets, requests, trace, history, status."""

import json
import os
import signal
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.telemetry import metrics as coordinator_metrics
from coordinator.view import ClusterView
from tests.cluster.running import COMMAND, events, running
from worker.telemetry import metrics as worker_metrics

STAGES = 3
PATH = "/v1/completions"
GREEDY = {"prompt": "hello", "temperature": 0, "ignore_eos": True}


@pytest.fixture(scope="module")
def cluster():
    with running(stages=STAGES) as cluster:
        yield cluster


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def families(text):
    return list(text_string_to_metric_families(text))


def samples(cluster):
    """Name and label values -> value, without the buckets of histograms."""
    found = (sample for family in families(cluster.get("/metrics").text) for sample in family.samples)
    return {(sample.name, *sample.labels.values()): sample.value for sample in found if "le" not in sample.labels}


def change(cluster, before):
    """What the counters have gained since `before`, and what the sums and counts of the histograms have."""
    after = samples(cluster)
    gained = {key: value - before.get(key, 0) for key, value in after.items()}
    growing = ("_total", "_sum", "_count")
    return {
        (key[0].removeprefix("stageline_"), *key[1:]): value
        for key, value in gained.items()
        if value and key[0].endswith(growing)
    }


def targets(cluster):
    groups = cluster.get("/metrics/targets").json()
    return {group["labels"].get("stage", "coordinator"): group["targets"][0] for group in groups}


def test_every_series_is_there_after_a_request(cluster):
    cluster.complete("hello", 40)
    cluster.get("/nowhere")
    found = {family.name for family in families(cluster.get("/metrics").text) if family.samples}
    assert found == {each.name.removesuffix("_total") for each in coordinator_metrics.SERIES}
    for stage, target in targets(cluster).items():
        if stage == "coordinator":
            assert f"http://{target}" == cluster.url
            continue
        scraped = families(httpx.get(f"http://{target}/metrics").text)
        assert {family.name for family in scraped} == {
            each.name.removesuffix("_total") for each in worker_metrics.SERIES
        }
        labels = {sample.labels["stage"] for family in scraped for sample in family.samples}
        assert labels == {stage}


def test_counters_are_what_the_clients_saw(cluster):
    before = samples(cluster)
    started = time.monotonic()
    replies = [cluster.post(PATH, **GREEDY, max_tokens=count).json() for count in (1, 7, 30)]
    whole = replies[-1]["choices"][0]["text"]
    stopped = cluster.post(PATH, **GREEDY, max_tokens=30, stop=whole[10:13]).json()
    assert len(cluster.get(f"/requests/{stopped['id']}").json()["stages"]) == 3  # though the stages hear of it later
    assert stopped["choices"][0]["finish_reason"] == "stop"
    passed = time.monotonic() - started
    refused = [cluster.post(PATH, prompt=""), cluster.post(PATH, prompt="x", max_tokens=10**9), cluster.get(PATH)]
    assert [answer.status_code for answer in refused] == [400, 400, 405]
    gained = change(cluster, before)
    usage = [reply["usage"] for reply in (*replies, stopped)]
    generated = sum(each["completion_tokens"] for each in usage)
    prompts = sum(each["prompt_tokens"] for each in usage)
    times = {key: gained.pop((f"{key}_sum",)) for key in TIMES}
    assert gained == {
        ("requests_finished_total", "length"): 3,
        ("requests_finished_total", "stop"): 1,
        ("requests_rejected_total", "invalid_request"): 1,
        ("requests_rejected_total", "context_length_exceeded"): 1,
        ("requests_rejected_total", "method_not_allowed"): 1,
        ("generated_tokens_total",): generated,
        ("prompt_tokens_total",): prompts,
        ("prefix_queries_total",): 4,
        ("request_generated_tokens_sum",): generated,
        ("request_prompt_tokens_sum",): prompts,
        ("request_generated_tokens_count",): 4,
        ("request_prompt_tokens_count",): 4,
        ("request_queue_seconds_count",): 4,
        ("time_to_first_token_seconds_count",): 4,
        ("request_seconds_count",): 4,
        ("inter_token_seconds_count",): generated - 4,
    }
    assert 0 < times["request_queue_seconds"] < times["time_to_first_token_seconds"]
    tokens = times["time_to_first_token_seconds"] + times["inter_token_seconds"]
    assert tokens <= times["request_seconds"] < passed


TIMES = ("request_queue_seconds", "time_to_first_token_seconds", "inter_token_seconds", "request_seconds")


def test_where_the_time_of_a_request_went(cluster):
    answer = cluster.client.post(
        cluster.url + PATH, json=GREEDY | {"max_tokens": 50}, headers={"x-request-id": "observed"}
    )
    report = cluster.get("/requests/observed").json()
    assert report["id"] == answer.json()["id"]
    assert (report["state"], report["finish_reason"], report["generated_tokens"]) == ("ended", "length", 50)
    total = report["total_seconds"]
    assert 0 <= report["queue_seconds"] < report["first_token_seconds"] < total
    view = cluster.cluster()
    assert [stage["layers"] for stage in report["stages"]] == [stage["layers"] for stage in view["stages"]]
    own = 0.0
    for stage in report["stages"]:
        assert (stage["prefill_steps"], stage["decode_steps"]) == (1, 49)
        here = sum(stage[f"{part}_seconds"] for part in ("prefill", "decode", "queue", "encode"))
        assert 0 < here + stage["wait_seconds"] < total
        own += here
    assert own < total  # one sequence is nowhere twice at the same time
    (line,) = [line for line in cluster.log.splitlines() if "request_id=observed" in line]
    said = dict(pair.split("=") for pair in line.split(" request ")[1].split())
    assert (said["id"], said["status"], said["finish"], said["generated_tokens"]) == (
        report["id"],
        "200",
        "length",
        "50",
    )
    assert float(said["total_seconds"]) == pytest.approx(total, abs=1e-4)


def test_a_client_that_leaves_is_counted_once(cluster):
    before = samples(cluster)
    with cluster.client.stream(
        "POST", cluster.url + PATH, json=GREEDY | {"max_tokens": 4000, "stream": True}
    ) as response:
        stream = events(response)  # dropping it would end the request
        next(stream)
        (mine,) = cluster.cluster()["requests"]
        assert (mine["state"], mine["prompt_tokens"]) == ("decode", 5)
        assert mine["generated_tokens"] >= 1
    gained = until(lambda: (seen := change(cluster, before)).get(("requests_finished_total", "cancelled")) and seen)
    assert [key for key in gained if key[0] in ("requests_finished_total", "requests_rejected_total")] == [
        ("requests_finished_total", "cancelled")
    ]
    assert cluster.get(f"/requests/{mine['id']}").json()["finish_reason"] == "cancelled"
    assert cluster.cluster()["requests"] == []


def test_the_trace_of_a_run(cluster):
    cluster.complete("hello", 20)
    answer = cluster.get("/trace")
    trace = json.loads(answer.content)
    assert trace["otherData"]["missing"] == {}
    spans = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["pid"] for event in spans} == {0, 1, 2, 3}
    for place in {(event["pid"], event["tid"]) for event in spans}:
        mine = [event for event in spans if (event["pid"], event["tid"]) == place]
        edges = sorted((round(e["ts"], 1), -round(e["dur"], 1), e["name"]) for e in mine)
        stack = []  # ends of the spans that are open
        for start, length, name in edges:
            while stack and stack[-1] <= start + 0.05:
                stack.pop()
            assert not stack or start - length <= stack[-1] + 0.05, (place, name)
            stack.append(start - length)
    last = [event for event in spans if event["pid"] == 0 and event["name"].startswith("cmpl-")][-1]
    decodes = [e for e in spans if e["name"] == "decode" and e["args"].get("requests") == [last["name"]]]
    assert len(decodes) == STAGES * 19
    # by the wall clocks of processes on one machine
    assert all(last["ts"] - 5000 < e["ts"] and e["ts"] + e["dur"] < last["ts"] + last["dur"] + 5000 for e in decodes)
    first, second = ([e["ts"] for e in decodes if e["pid"] == pid] for pid in (1, 2))
    assert all(a < b for a, b in pairwise(first))
    assert all(a < b for a, b in zip(first, second, strict=True))


def test_the_history_of_a_busy_cluster(cluster):
    now = cluster.get("/dashboard/state").json()["now"]
    stop = threading.Event()

    def read():
        body = GREEDY | {"max_tokens": 8000, "stream": True}
        with cluster.client.stream("POST", cluster.url + PATH, json=body) as response:
            for _ in events(response):
                if stop.is_set():
                    return

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        path = f"/dashboard/state?since={now}"
        state = until(lambda: len((found := cluster.get(path).json())["history"]["seconds"]) >= 3 and found)
        stop.set()
        reading.result()
    history = state["history"]
    assert all(now < second <= state["now"] for second in history["seconds"])
    assert all(1.9 < after - before < 4 for before, after in pairwise(history["seconds"]))
    assert history["tokens_per_second"][-1] > 1
    assert history["running"][-1] == 1
    assert state["cluster"]["tokens_per_second"] > 1
    for stage in history["stages"]:
        assert stage["up"][-1] is True
        assert 0 < stage["p50"][-1] <= stage["p95"][-1] < 1
        shares = [stage[name][-1] for name in ("busy", "wait", "transfer")]
        assert all(0 < share < 1 for share in shares)
        assert 0.5 < sum(shares) < 1.0001  # what is left is between the arrival of a message and the start of its step
    assert history["stages"][0]["memory_bytes"][-1] > 0


def status(cluster, *arguments):
    return [*COMMAND, "status", *arguments, "--url", cluster.url]


def test_status_as_json(cluster):
    said = subprocess.run(status(cluster, "--json"), capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == 1
    view = msgspec.json.decode(said, type=ClusterView)
    assert (view.state, len(view.stages), view.reason) == ("ready", STAGES, "")
    assert all(stage.parameter_bytes > 0 and stage.metrics for stage in view.stages)


@pytest.mark.parametrize("arguments", [["--watch"], ["--watch", "--json"]], ids=["table", "json"])
def test_watching_ends_at_ctrl_c(cluster, arguments):
    command = status(cluster, *arguments)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        lines = [process.stdout.readline()]
        while sum("stageline-demo" in line for line in lines) < 2:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate()
    assert (process.returncode, errors.strip()) == (130, "")
    assert "Traceback" not in rest
    if "--json" in arguments:
        assert all(json.loads(line)["state"] == "ready" for line in lines)


def test_a_stage_that_dies_is_seen_to_be_gone_and_to_be_back(cluster):
    before, old = samples(cluster), targets(cluster)
    with cluster.client.stream(
        "POST", cluster.url + PATH, json=GREEDY | {"max_tokens": 4000, "stream": True}
    ) as response:
        stream = events(response)
        next(stream)
        os.kill(cluster.pids()[1], signal.SIGKILL)
        assert list(stream)[-1][0] == "error"
    without = until(lambda: "1" not in (found := targets(cluster)) and found)
    assert without == {name: target for name, target in old.items() if name != "1"}
    down = samples(cluster)
    assert (down["stageline_ready",], down["stageline_stage_up", "1"]) == (0, 0)
    assert ("stageline_stage_heartbeat_age_seconds", "1") not in down
    missing = cluster.get("/trace").json()["otherData"]["missing"]
    assert [name.split(" (")[0] for name in missing] == ["stage 1"]
    refused = cluster.post(PATH, prompt="x")
    assert refused.status_code == 503
    cluster.wait_until_ready()
    gained = change(cluster, before)
    assert gained["requests_finished_total", "error"] == 1
    assert gained["requests_rejected_total", "not_ready"] == 1
    assert gained["stage_restarts_total", "1"] == 1
    new = targets(cluster)
    assert {name: target for name, target in new.items() if name != "1"} == without
    assert "stageline_stage_info{" in httpx.get(f"http://{new['1']}/metrics").text
    assert cluster.complete("hello", 5)
