"""What clients hear when there is no place, no room or no time, and when somebody cancels."""

import pytest

from coordinator.request import Token
from tests.coordinator.serving import app, call, post
from tests.fakes.pipeline import FakePipeline, spell
from worker.errors import CancelledRequestError, DeadlineError, NoRoomError, QueueFullError
from worker.protocol import StageTimes

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
