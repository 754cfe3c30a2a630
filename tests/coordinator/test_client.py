import socket
from contextlib import closing
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.client import ChatMessage, Client, Options
from coordinator.server_events import ServerEvent, server_events
from tests.coordinator.scripted import (
    EVENTS,
    Answer,
    Scripted,
    as_error,
    as_events,
    as_json,
    chat_answer,
    chat_piece,
    serving,
)
from worker.errors import ClusterError, ConfigError, StagelineError, UserError

CHAT = "POST /v1/chat/completions"
HELLO = [ChatMessage("user", "hello")]

TRANSCRIPT = (
    b': keep-alive\n\nevent: error\r\ndata: {"a":\r\ndata: 1}\r\n\r\ndata:x\n\nid: 4\nevent: nothing\n\n'
    + "data: \u2028\x85\x0c漢\n\n".encode()
    + b"data: unfinished"
)
EXPECTED = [ServerEvent("error", '{"a":\n1}'), ServerEvent("message", "x"), ServerEvent("message", "\u2028\x85\x0c漢")]


def ask(server: Scripted, options: Options) -> str:
    with Client(server.url) as client, closing(client.chat("tiny", HELLO, options)) as pieces:
        return "".join(pieces)


@given(st.lists(st.integers(0, len(TRANSCRIPT)), max_size=8))
def test_events_do_not_depend_on_how_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TRANSCRIPT)]
    pieces = [TRANSCRIPT[a:b] for a, b in pairwise(edges)]
    assert list(server_events(pieces)) == EXPECTED


def test_chat_gives_the_text_of_the_answer() -> None:
    with serving({CHAT: chat_answer("one ", "\u2028two", "\n")}) as server:
        assert ask(server, Options(max_tokens=3, seed=0)) == "one \u2028two\n"
    message = {"role": "user", "content": "hello"}
    assert server.bodies == [{"model": "tiny", "messages": [message], "stream": True, "max_tokens": 3, "seed": 0}]


def test_complete_gives_the_text_that_follows() -> None:
    answer = as_events('data: {"choices": [{"text": "a"}]}', 'data: {"choices": [{"text": "b"}]}', "data: [DONE]")
    with serving({"POST /v1/completions": answer}) as server, Client(server.url) as client:
        assert list(client.complete("tiny", "hello", Options(temperature=0.5))) == ["a", "b"]
    assert server.bodies == [{"model": "tiny", "prompt": "hello", "stream": True, "temperature": 0.5}]


def test_model_is_the_one_that_is_served() -> None:
    with serving({}) as server, Client(server.url + "/") as client:
        assert client.model() == "tiny"


def test_api_key_is_presented() -> None:
    with serving({}) as server, Client(server.url, "secret") as client:
        client.model()
    assert server.keys == ["Bearer secret"]


def test_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with serving({}) as server, Client(server.url) as client:
        assert client.model() == "tiny"


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (as_error("max_tokens must be positive", 400), UserError, r"^max_tokens must be positive$"),
        (as_error("no such model", 404), UserError, r"^no such model$"),
        (as_error("wrong key", 401), UserError, r"^wrong key .*STAGELINE_API_KEY"),
        (as_error("the queue is full", 429), ClusterError, r"^the queue is full$"),
        (as_error("stage 1 is loading", 503), ClusterError, r"^stage 1 is loading$"),
        (Answer([b""], 302), ClusterError, r"answered HTTP status 302.*not a Stageline"),
        (Answer([b"<html>"], 404), UserError, r"answered HTTP status 404.*not a Stageline"),
        (Answer([b"<html>"], 502), ClusterError, r"answered HTTP status 502"),
        (Answer([b"data: <html>\n\n"], kind=EVENTS), ClusterError, r"does not answer like a Stageline coordinator"),
        (as_events(chat_piece("a")), ClusterError, r"broke off"),
        (as_events(), ClusterError, r"broke off"),
        (as_events("event: error\ndata: oops"), ClusterError, r"does not answer like"),
    ],
    ids=lambda value: value.pattern if hasattr(value, "pattern") else None,
)
def test_refusals(answer: Answer, kind: type[StagelineError], message: str) -> None:
    with serving({CHAT: answer}) as server, pytest.raises(StagelineError, match=message) as caught:
        ask(server, Options())
    assert isinstance(caught.value, kind)


def test_error_in_the_middle_comes_after_the_text() -> None:
    failure = 'event: error\ndata: {"error": {"message": "stage 1 died", "type": "t"}}'
    with serving({CHAT: as_events(chat_piece("so far"), failure)}) as server, Client(server.url) as client:
        pieces = client.chat("tiny", HELLO, Options())
        assert next(pieces) == "so far"
        with pytest.raises(ClusterError, match=r"^stage 1 died$"):
            next(pieces)


def test_closing_the_answer_closes_the_connection() -> None:
    with serving({CHAT: as_events(chat_piece("a"), hold=True)}) as server, Client(server.url) as client:
        pieces = client.chat("tiny", HELLO, Options())
        assert next(pieces) == "a"
        assert not server.left.is_set()
        pieces.close()
        assert server.left.wait(5)


def test_nobody_listens() -> None:
    with socket.socket() as taken:  # bound and not listening: nobody else can take the port
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with (
            Client(url) as client,
            pytest.raises(ClusterError, match=rf"no coordinator answers at {url}.*stageline up"),
        ):
            client.cluster()


def test_no_model_is_not_a_coordinator() -> None:
    with (
        serving({"GET /v1/models": as_json({"data": []})}) as server,
        Client(server.url) as client,
        pytest.raises(ClusterError, match="does not answer like"),
    ):
        client.model()


@pytest.mark.parametrize("url", ["", "localhost:8000", "http://", "ftp://host", "http://[::1", "http://host:port"])
def test_malformed_url(url: str) -> None:
    with pytest.raises(ConfigError, match=r"--url"):
        Client(url)


@pytest.mark.parametrize("key", ["gehe\u00efm", "se\ncret", " secret"], ids=["not ASCII", "line", "space"])
def test_key_that_no_header_carries(key: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        Client("http://127.0.0.1:1", key)
    assert caught.value.param == "api_key"
    assert key not in caught.value.message
