import pytest

from tests.coordinator.serving import CONTEXT, CREATED, app, call
from tests.fakes.pipeline import FakePipeline

CARD = {"id": "org/tiny", "created": CREATED, "max_model_len": CONTEXT, "object": "model", "owned_by": "stageline"}


def test_models() -> None:
    response = call(app(FakePipeline([])), "GET", "/v1/models")
    assert response.json() == {"object": "list", "data": [CARD]}


def test_one_model() -> None:
    serving = app(FakePipeline([]))
    assert call(serving, "GET", "/v1/models/org/tiny").json() == CARD
    unknown = call(serving, "GET", "/v1/models/org/other")
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "model_not_found"


@pytest.mark.parametrize("down", [None, 1], ids=["ready", "loading"])
def test_health_says_only_that_the_process_lives(down: int | None) -> None:
    response = call(app(FakePipeline([], down=down)), "GET", "/health")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_ready() -> None:
    response = call(app(FakePipeline([])), "GET", "/ready")
    assert (response.status_code, response.json()) == (200, {"status": "ready"})


def test_not_ready_names_the_stage() -> None:
    response = call(app(FakePipeline([], down=1)), "GET", "/ready")
    assert response.status_code == 503
    assert int(response.headers["retry-after"]) > 0
    answer = response.json()
    assert answer["status"] == "not_ready"
    assert answer["reason"] == "stage 1 is loading"
    # anybody may ask: what else is known of the stage needs the API key
    assert answer["stages"] == [{"stage": 1, "layers": [3, 5], "state": "loading"}]


def test_cluster() -> None:
    answer = call(app(FakePipeline([], down=1)), "GET", "/cluster").json()
    assert (answer["state"], answer["model"]) == ("starting", "tiny")
    first, second = answer["stages"]
    assert first["layers"] == [0, 3]
    assert second["layers"] == [3, 5]
    assert {"stage", "layers", "pattern", "host", "pid", "state", "memory_bytes"} <= first.keys()
    assert (second["pattern"], second["pid"], second["state"], second["memory_bytes"]) == ("E*", 1001, "loading", 0)
