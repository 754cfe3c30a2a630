import pytest

from coordinator.api.app import create_app
from tests.coordinator.serving import app, call, model
from tests.fakes.pipeline import FakePipeline, spell

KEY = "s3cret"
BODY = {"prompt": "Hi"}
ROUTES = [("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("GET", "/v1/models"),
          ("GET", "/v1/models/org/tiny"), ("GET", "/cluster"), ("GET", "/nowhere"), ("GET", "/metrics"),
          ("GET", "/metrics/targets"), ("GET", "/requests/x"), ("GET", "/trace"), ("GET", "/dashboard/state"),
          ("GET", "/dashboard/state/"),
          ("GET", "/dashboard/none.js")]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=lambda value: value)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": f"Basic {KEY}"},
        {"authorization": KEY},
        {"x-api-key": "s3cre"},
        {"authorization": "Bearer wrong", "x-api-key": KEY},
        {"authorization": "Bearer "},
    ],
    ids=["none", "wrong", "other scheme", "no scheme", "x-api-key", "bearer counts", "empty"],
)
def test_no_way_in_without_the_key(method: str, path: str, headers: dict) -> None:
    pipeline = FakePipeline(spell("a"))
    response = call(app(pipeline, api_key=KEY), method, path, json=BODY, headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.headers["x-request-id"]
    assert response.json()["error"]["code"] == "invalid_api_key"
    assert pipeline.requests == []


@pytest.mark.parametrize(
    "headers", [{"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer {KEY}"}, {"x-api-key": KEY}]
)
def test_the_key_opens(headers: dict) -> None:
    response = call(app(FakePipeline(spell("a")), api_key=KEY), "POST", "/v1/completions", json=BODY, headers=headers)
    assert response.status_code == 200


def test_key_of_any_characters_is_compared() -> None:
    response = call(app(FakePipeline([]), api_key=KEY), "GET", "/cluster", headers={b"x-api-key": b"\xff\xe9"})
    assert response.status_code == 401


@pytest.mark.parametrize("path", ["/health", "/ready", "/dashboard", "/dashboard/style.css"])
def test_public(path: str) -> None:
    assert call(app(FakePipeline([]), api_key=KEY), "GET", path).status_code == 200


@pytest.mark.parametrize("given", ["abc-123_x.y:z", "a" * 128])
def test_own_request_id_comes_back(given: str) -> None:
    assert (
        call(app(FakePipeline([])), "GET", "/health", headers={"x-request-id": given}).headers["x-request-id"] == given
    )


@pytest.mark.parametrize("given", ["", "a b", "a=b", "a" * 129, "\u00e9"])
def test_odd_request_id_is_replaced(given: str) -> None:
    headers = {b"x-request-id": given.encode("latin-1")}
    made = call(app(FakePipeline([])), "GET", "/health", headers=headers).headers["x-request-id"]
    assert made != given
    assert len(made) == 32


def test_request_id_of_failures() -> None:
    serving = app(FakePipeline([]))
    for method, path in [("GET", "/nowhere"), ("GET", "/v1/completions"), ("POST", "/v1/completions")]:
        response = call(serving, method, path, content=b"{", headers={"x-request-id": "abc"})
        assert response.status_code >= 400
        assert response.headers["x-request-id"] == "abc"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost:8000"}, 200),
        ({"host": "127.0.0.1"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "localhost", "origin": "http://127.0.0.1:3000"}, 200),
        ({"host": "evil.example:8000"}, 403),
        ({"host": "192.168.1.5"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "x@localhost:["}, 403),
        ({"host": ""}, 403),
        ({"host": "localhost", "origin": "https://evil.example"}, 403),
        ({"host": "localhost", "origin": "null"}, 403),
    ],
    ids=str,
)
def test_web_pages_and_foreign_names_stay_out(headers: dict, status: int) -> None:
    pipeline = FakePipeline(spell("a"))
    serving = create_app(model=model(), pipeline=pipeline, observer=pipeline.observer, api_key=None, local_only=True)
    response = call(serving, "POST", "/v1/completions", json=BODY, headers=headers)
    assert response.status_code == status
    if status == 403:
        assert response.json()["error"]["code"] == "forbidden_origin"
        assert pipeline.requests == []


def test_no_cors() -> None:
    headers = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    response = call(app(FakePipeline([])), "OPTIONS", "/v1/completions", headers=headers)
    assert response.status_code == 405
    assert not [name for name in response.headers if name.startswith("access-control")]
