"""What others watch over HTTP: /metrics, /metrics/targets, /requests, /trace, the dashboard."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

import coordinator
from coordinator.api.dashboard import ASSETS
from tests.coordinator.serving import app, call, server
from tests.fakes.pipeline import FakePipeline, spell
from worker.errors import NotReadyError, StageFailedError
from worker.protocol import StageTimes

PATH = "/v1/completions"
BODY = {"prompt": "Hi", "max_tokens": 3}


KEY = {"x-api-key": "key"}


def counted(serving: Any, series: str) -> dict[str, float]:
    """Label value -> value, of a counter with one label."""
    lines = call(serving, "GET", "/metrics", headers=KEY).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if line.startswith(series + "{"))
    return {labels.split('"')[1]: float(value) for labels, value in pairs if float(value)}


def test_metrics_in_the_format_that_is_asked_for() -> None:
    serving = app(FakePipeline([]))
    plain = call(serving, "GET", "/metrics")
    assert plain.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE stageline_ready gauge\nstageline_ready 1.0\n" in plain.text
    assert "_created" not in plain.text
    opened = call(serving, "GET", "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert opened.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert opened.text.endswith("# EOF\n")
    assert call(serving, "HEAD", "/metrics").status_code == 200


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize(
    ("script", "finished", "rejected"),
    [
        (spell("abc"), {"length": 1}, {}),
        (spell("abc", finish="stop"), {"stop": 1}, {}),
        ([*spell("ab")[:1], StageFailedError("stage 1 died")], {"error": 1}, {}),
        ([NotReadyError("stage 1 is down")], {}, {"not_ready": 1}),
        ([ZeroDivisionError("a bug")], {"error": 1}, {}),
    ],
    ids=["length", "stop", "failed", "not ready", "bug"],
)
def test_a_request_counts_once(stream: bool, script: list[Any], finished: Any, rejected: Any) -> None:
    serving = app(FakePipeline(script))
    call(serving, "POST", PATH, fails=True, json=BODY | {"stream": stream})
    assert counted(serving, "stageline_requests_finished_total") == finished
    assert counted(serving, "stageline_requests_rejected_total") == rejected


def test_a_stop_string_is_a_stop_and_counts_what_the_client_was_given() -> None:
    serving = app(FakePipeline(spell("say END now")))
    reply = call(serving, "POST", PATH, json={"prompt": "Hi", "stop": "END", "max_tokens": 20}).json()
    assert counted(serving, "stageline_requests_finished_total") == {"stop": 1}
    line = f"stageline_generated_tokens_total {float(reply['usage']['completion_tokens'])}"
    assert line in call(serving, "GET", "/metrics").text.splitlines()


@pytest.mark.parametrize(
    ("method", "path", "options", "code"),
    [
        ("POST", PATH, {"content": b"{"}, "invalid_request"),
        ("POST", PATH, {"json": {"prompt": "Hi", "model": "other"}}, "model_not_found"),
        ("POST", PATH, {"json": {"prompt": "Hi", "max_tokens": 100_000}}, "context_length_exceeded"),
        ("GET", PATH, {}, "method_not_allowed"),
        ("GET", "/nowhere", {}, "unknown_url"),
        ("GET", "/cluster", {"headers": {"x-api-key": "wrong"}}, "invalid_api_key"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_refusal_counts_by_its_code(method: str, path: str, options: dict[str, Any], code: str) -> None:
    serving = app(FakePipeline(spell("a")), api_key="key")
    call(serving, method, path, **({"headers": KEY} | options))
    assert counted(serving, "stageline_requests_rejected_total") == {code: 1}


def test_targets_are_the_workers_that_live_and_this_server() -> None:
    serving = app(FakePipeline([], down=1))
    answer = call(serving, "GET", "/metrics/targets", headers={"host": "example:9"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == [
        {"targets": ["127.0.0.1:9100"], "labels": {"job": "stageline-stage", "stage": "0"}},
        {"targets": ["example:9"], "labels": {"job": "stageline-coordinator"}},
    ]


def test_where_the_time_of_a_request_went() -> None:
    pipeline = FakePipeline(spell("abc"))
    serving = app(pipeline)
    reply = call(serving, "POST", PATH, json=BODY, headers={"x-request-id": "mine"}).json()
    pipeline.observer.closed(1, (StageTimes(0, 1, 0.5, 2, 0.25, 0.1, 0.2, 0.3, 0.4),))
    by_id, by_name = (call(serving, "GET", f"/requests/{name}").json() for name in (reply["id"], "mine"))
    assert by_id == by_name
    assert (by_id["id"], by_id["request_id"]) == (reply["id"], "mine")
    assert (by_id["state"], by_id["finish_reason"], by_id["error"]) == ("ended", "length", None)
    usage = reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]
    assert (by_id["prompt_tokens"], by_id["generated_tokens"]) == usage
    assert 0 <= by_id["queue_seconds"] <= by_id["first_token_seconds"] <= by_id["total_seconds"]
    (stage,) = by_id["stages"]
    assert (stage["stage"], stage["layers"], stage["prefill_seconds"], stage["hop_seconds"]) == (0, [0, 3], 0.5, 0.4)


def test_a_request_that_nobody_remembers() -> None:
    answer = call(app(FakePipeline([])), "GET", "/requests/other")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "request_not_found")
    assert "'other'" in answer.json()["error"]["message"]


def test_trace_has_the_stages_that_answer_and_names_the_others() -> None:
    async def steps(request: object) -> Response:
        body = '{"stage":0,"pid":7,"anchor_unix":1e9,"anchor_monotonic":5.0,"steps":[[6,7,8,"decode",1,[1]]]}'
        return Response(body, media_type="application/json")

    async def scenario() -> httpx.Response:
        async with server(Starlette(routes=[Route("/trace", steps)])) as worker:
            serving = app(FakePipeline(spell("a"), metrics=worker.removeprefix("http://")))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(serving), base_url="http://test") as client:
                await client.post(PATH, json=BODY)
                return await client.get("/trace")

    answer = asyncio.run(scenario())
    assert answer.headers["content-disposition"] == 'attachment; filename="stageline-trace.json"'
    body = answer.json()
    names = [event["name"] for event in body["traceEvents"] if event["pid"] == 1 and event["ph"] == "X"]
    assert names == ["decode", "compute", "encode"]
    (missing,) = body["otherData"]["missing"].items()
    assert missing[0] == "stage 1 (layers 3-4)"
    assert missing[1].startswith("does not answer: ")


def test_the_page_and_every_file_of_it() -> None:
    serving = app(FakePipeline([]), api_key="key")
    page = call(serving, "GET", "/dashboard")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    assert "default-src 'none'; script-src 'self'" in page.headers["content-security-policy"]
    folder = Path(coordinator.__file__).parent / "dashboard"
    for path in ASSETS:
        answer = call(serving, "GET", path)
        assert answer.status_code == 200, path
        assert answer.content == (folder / path.removeprefix("/dashboard/")).read_bytes()
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert {Path(path).suffix for path in ASSETS} == {".html", ".css", ".js", ".svg"}
    assert call(serving, "GET", "/dashboard/").headers["location"] == "../dashboard"


@pytest.mark.parametrize("path", ["/dashboard/none.js", "/dashboard/../view.py", "/dashboard/%2e%2e/view.py"])
def test_no_other_file_is_given_out(path: str) -> None:
    assert call(app(FakePipeline([])), "GET", path).status_code == 404
    assert call(app(FakePipeline([]), api_key="key"), "GET", path).status_code == 401


def test_state_of_the_dashboard() -> None:
    pipeline = FakePipeline([], down=1)
    serving = app(pipeline)
    for _ in range(3):
        pipeline.observer.sample(pipeline.view(), 100.0)
    first = call(serving, "GET", "/dashboard/state")
    assert first.headers["cache-control"] == "no-store"
    state = first.json()
    assert state["cluster"]["reason"] == "stage 1 is loading"
    assert [stage["up"] for stage in state["history"]["stages"]] == [[True] * 3, [False] * 3]
    later = call(serving, "GET", "/dashboard/state", params={"since": 100.0}).json()
    assert later["history"]["seconds"] == []


@pytest.mark.parametrize("since", ["soon", "nan", "inf", "-inf", "1_000", "1e999", "true", ""])
def test_since_is_a_finite_number(since: str) -> None:
    refused = call(app(FakePipeline([])), "GET", "/dashboard/state", params={"since": since})
    error = refused.json()["error"]
    assert (refused.status_code, error["param"], error["code"]) == (400, "since", "invalid_value")
    assert f"since={since!r} is not a finite number" in error["message"]
