"""The load generator: what it plans, what it reports, and what it sees of servers that answer in every way."""

import asyncio
import json
import math
import re
import socket
import threading

import pytest

from coordinator.load.busy import busy_shares
from coordinator.load.client import LoadClient, server_of
from coordinator.load.plan import plan_load
from coordinator.load.report import Seen, percentiles, report
from tests.coordinator.scripted import Answer, Scripted, as_error, as_events, as_json, serving
from worker.errors import ClusterError, UserError

COMPLETIONS = "POST /v1/completions"


def load(requests=200, rate=math.inf, seed=3):
    return plan_load(requests, rate=rate, prompt_tokens=40, answer_tokens=8, spread=0.5, seed=seed)


def test_a_load_is_the_same_for_the_same_seed_and_another_for_another():
    assert load() == load()
    assert load() != load(seed=4)
    assert load()[5].token_ids() == load()[5].token_ids()


def test_lengths_lie_within_the_spread_and_arrivals_follow_the_rate():
    planned = load(requests=2000, rate=50.0)
    assert {request.at for request in load()} == {0.0}
    assert all(20 <= len(request.token_ids()) <= 60 and 4 <= request.answer_tokens <= 12 for request in planned)
    assert planned == sorted(planned, key=lambda request: request.at)
    assert planned[-1].at == pytest.approx(2000 / 50, rel=0.1)
    assert len(planned[0].text().split()) == planned[0].prompt_tokens


def test_percentiles_are_values_that_occurred():
    assert percentiles(range(1, 101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert percentiles([7.0]) == {"p50": 7.0, "p95": 7.0, "p99": 7.0}
    assert percentiles([]) == {}


def test_a_report_counts_only_whole_answers():
    seen = [
        Seen(outcome="done", prompt_tokens=3, answer_tokens=3, arrivals=(0.5, 0.6, 0.8), seconds=0.9),
        Seen(outcome="done", prompt_tokens=4, answer_tokens=1, arrivals=(0.1,), seconds=0.2),
        Seen(outcome="rejected", reason="429: full"),
        Seen(outcome="failed", reason="broke", prompt_tokens=9, answer_tokens=9, arrivals=(9.0,)),
        Seen(outcome="failed", refused=True, reason="400: no"),
    ]
    got = report("http://x", seen, 2.0, [0.5])
    assert (got.done, got.rejected, got.failed, got.refused) == (2, 1, 2, 1)
    assert got.reasons == {"429: full": 1, "broke": 1, "400: no": 1}
    assert (got.prompt_tokens, got.answer_tokens, got.answer_tokens_per_second) == (7, 4, 2.0)
    assert got.first_token_seconds["p99"] == 0.5
    assert got.inter_token_seconds == pytest.approx({"p50": 0.1, "p95": 0.2, "p99": 0.2})


def test_shares_are_of_stages_that_lived_throughout():
    assert busy_shares({0: 1.0, 1: 2.0}, {0: 2.0, 1: 4.0}, 2.0) == [0.5, 1.0]
    assert busy_shares({0: 1.0}, {0: 0.1}, 2.0) is None  # started again
    assert busy_shares({0: 1.0}, {0: 2.0, 1: 1.0}, 2.0) is None
    assert busy_shares(None, {0: 2.0}, 2.0) is None


def sent(server, ours=True, requests=1):
    async def run():
        async with LoadClient(server.url, model="tiny", api_key="k", ours=ours, concurrency=8) as client:
            return await client.run(load(requests=requests))

    return asyncio.run(run())


def piece(text):
    return "data: " + json.dumps({"choices": [{"text": text}]})


USAGE = 'data: {"choices": [], "usage": {"prompt_tokens": 30, "completion_tokens": 5}}'


def test_a_streamed_answer_is_timed_piece_by_piece_and_counted_by_the_servers_usage():
    answer = as_events(": keep-alive", piece(""), piece("a"), piece("b"), USAGE, "data: [DONE]")
    with serving({COMPLETIONS: answer}) as server:
        (seen,) = sent(server)
    assert (seen.outcome, seen.prompt_tokens, seen.answer_tokens, len(seen.arrivals)) == ("done", 30, 5, 2)
    assert 0 < seen.arrivals[0] <= seen.arrivals[1] <= seen.seconds
    (planned,) = load(requests=1)
    (body,) = server.bodies
    assert body["prompt"] == planned.token_ids()
    assert (body["max_tokens"], body["ignore_eos"]) == (planned.answer_tokens, True)
    assert server.keys == ["Bearer k"]


def test_another_server_gets_words_and_only_standard_fields():
    with serving({COMPLETIONS: as_events(piece("a"), "data: [DONE]")}) as server:
        (seen,) = sent(server, ours=False)
    assert (seen.outcome, seen.answer_tokens) == ("done", 1)  # counted by pieces where there is no usage
    standard = {"model", "prompt", "max_tokens", "temperature", "seed", "stream", "stream_options"}
    assert server.bodies[0].keys() == standard
    assert isinstance(server.bodies[0]["prompt"], str)


@pytest.mark.parametrize(
    ("answer", "outcome", "reason"),
    [
        (as_error("queue full", 429), "rejected", "429: queue full"),
        (as_error("not ready", 503), "rejected", "503: not ready"),
        (as_error("too long", 400), "failed", "400: too long"),
        (Answer([b"<html>"], 502), "failed", "502: <html>"),
        (as_events(piece("a"), 'event: error\ndata: {"error": 1}'), "failed", '{"error": 1}'),
        (as_events(piece("a")), "failed", "the stream ended"),
        (as_events("data: no json"), "failed", "no completion"),
    ],
    ids=["full", "not ready", "refused", "no JSON", "error event", "broken off", "noise"],
)
def test_what_is_no_whole_answer_is_told_apart(answer, outcome, reason):
    with serving({COMPLETIONS: answer}) as server:
        (seen,) = sent(server)
    assert seen.outcome == outcome
    assert seen.reason.startswith(reason)


@pytest.mark.parametrize(
    ("answer", "explained"),
    [(b"", True), (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ndata: {", False)],
    ids=["before the answer", "within it"],
)
def test_a_connection_closed_before_the_answer_is_explained(answer, explained):
    def hang_up():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1 << 16)
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up)
        thread.start()
        (seen,) = sent(Scripted(f"http://127.0.0.1:{listener.getsockname()[1]}", {}))
        thread.join()
    assert (seen.outcome, seen.refused) == ("failed", False)
    why = r"closed the connection before it answered a request of \d+ bytes.*fewer --prompt-tokens"
    assert bool(re.search(why, seen.reason)) == explained


def test_a_key_that_the_server_refuses_is_the_users_mistake():
    with (
        serving({"GET /v1/models": as_error("wrong key", 401), "GET /cluster": as_error("wrong key", 401)}) as server,
        pytest.raises(UserError, match=r"401: wrong key \(pass --api-key"),
    ):
        asyncio.run(server_of(server.url, "k"))


def test_requests_run_at_the_same_time_and_each_is_seen_once():
    answers = [
        as_events(piece("a"), "data: [DONE]"),
        as_error("queue full", 429),
        as_events(piece("b"), "data: [DONE]"),
    ]
    with serving({COMPLETIONS: answers}) as server:
        seen = sent(server, requests=12)
    assert len(seen) == len(server.bodies) == 12
    assert sum(one.outcome == "rejected" for one in seen) == 1


def test_a_server_is_asked_what_it_is():
    with (
        serving({"GET /cluster": as_json({})}) as ours,
        serving({"GET /cluster": as_error("no such page", 404)}) as other,
    ):
        assert asyncio.run(server_of(ours.url, None)) == ("tiny", True)
        assert asyncio.run(server_of(other.url, None)) == ("tiny", False)
        assert asyncio.run(server_of(f"{other.url}", "k"))[1] is False
    with pytest.raises(ClusterError, match="does not answer like an OpenAI-compatible server"):
        asyncio.run(server_of(ours.url, None))
    with pytest.raises(ClusterError, match="does not answer like"):
        asyncio.run(server_of("nonsense", None))
