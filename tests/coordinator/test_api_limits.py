"""What clients hear when there is no place, no room or no time, and when somebody cancels."""

import asyncio
import time

import httpx
import pytest

from coordinator.api import requests
from coordinator.request import Request, Token
from tests.coordinator.serving import app, call, post, until
from tests.fakes.pipeline import FakePipeline, spell
from worker.errors import CancelledRequestError, DeadlineError, NoRoomError, QueueFullError
from worker.protocol import Sampling, StageTimes

PATH = "/v1/completions"
BODY = {"prompt": "hi", "max_tokens": 5}


def rejected(pipeline, code):
    name, labels = "stageline_requests_rejected_total", {"code": code}
    return pipeline.observer.registry.get_sample_value(name, labels)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_full_queue_says_when_to_come_again(stream):
    pipeline = FakePipeline([QueueFullError("16 requests are running and 32 wait", retry_after=7)])
    response = post(pipeline, PATH, BODY | {"stream": stream})
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    error = response.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "queue_full")
    assert rejected(pipeline, "queue_full") == 1


def test_what_fits_into_no_stage_is_the_users_mistake_and_counted_once():
    pipeline = FakePipeline([NoRoomError("needs 3 GB", param="max_tokens")])
    response = post(pipeline, PATH, BODY)
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", "state_too_large", "max_tokens")
    assert rejected(pipeline, "state_too_large") == 1


def test_a_deadline_before_the_first_token_has_a_status_and_later_an_event():
    late = DeadlineError("no place became free in 300.0 s")
    response = post(FakePipeline([late]), PATH, BODY | {"stream": True})
    assert (response.status_code, response.json()["error"]["code"]) == (504, "deadline_exceeded")
    response = post(FakePipeline([Token(104), late]), PATH, BODY | {"stream": True})
    assert response.status_code == 200
    assert "event: error" in response.text
    assert "deadline_exceeded" in response.text
    assert "[DONE]" not in response.text


def test_a_request_that_somebody_cancels_ends_with_an_error_and_is_remembered_as_cancelled():
    pipeline = FakePipeline([Token(104), CancelledRequestError("the request was cancelled")])
    serving = app(pipeline)
    response = call(serving, "POST", PATH, json=BODY, headers={"x-request-id": "mine"})
    assert response.status_code == 499
    assert response.json()["error"]["code"] == "request_cancelled"
    entry = call(serving, "GET", "/requests/mine").json()
    assert (entry["state"], entry["finish_reason"], entry["error"]) == ("ended", "cancelled", None)


def test_delete_answers_when_every_stage_has_freed_it():
    pipeline = FakePipeline(spell("hi"))
    freed = tuple(StageTimes(stage, 1, 0.1, 1, 0.1, 0.0, 0.0, 0.0, 0.0) for stage in range(2))

    async def cancel(number):
        pipeline.called_off.append(number)
        pipeline.observer.closed(number, freed)

    pipeline.cancel = cancel
    serving = app(pipeline)
    assert call(serving, "POST", PATH, json=BODY, headers={"x-request-id": "mine"}).status_code == 200
    response = call(serving, "DELETE", "/requests/mine")
    assert (response.status_code, len(response.json()["stages"])) == (200, 2)
    assert pipeline.called_off == [1]
    unknown = call(serving, "DELETE", "/requests/other")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "request_not_found")


def test_delete_answers_when_the_answer_is_over():
    class Waiting(FakePipeline):
        """A request waits until it is cancelled, and hears of it only after that call has returned."""

        async def generate(self, request):
            self.called = asyncio.Event()
            self.observer.arrived(1, request, time.monotonic())
            await self.called.wait()
            raise CancelledRequestError("the request was cancelled")
            yield Token(0)

        async def cancel(self, number):
            self.called.set()

    async def scenario():
        pipeline = Waiting([])
        transport = httpx.ASGITransport(app(pipeline))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            asked = asyncio.create_task(client.post(PATH, json=BODY, headers={"x-request-id": "mine"}))
            await until(lambda: pipeline.observer.journal.find("mine"))
            assert (await client.get("/requests/mine")).json()["state"] == "waiting"
            deleted = (await client.delete("/requests/mine")).json()
            assert (await asked).status_code == 499
            return deleted

    deleted = asyncio.run(scenario())
    assert (deleted["state"], deleted["finish_reason"]) == ("ended", "cancelled")


def test_delete_does_not_wait_for_ever_for_a_client_that_does_not_read(monkeypatch):
    monkeypatch.setattr(requests, "END_SECONDS", 0.01)
    pipeline = FakePipeline([])
    asked = Request(id="a", prompt=(1,), max_tokens=2, sampling=Sampling(), stop_tokens=())
    pipeline.observer.arrived(1, asked, time.monotonic())
    response = call(app(pipeline), "DELETE", "/requests/a")
    assert (response.status_code, response.json()["state"]) == (200, "waiting")
