"""Several clients at once over HTTP: each gets what it would get alone, and nothing is left behind."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.cluster.running import events, running

REQUESTS = [
    {"prompt": [(7 * n + k) % 256 for k in range(1 + 23 * n % 90)], "max_tokens": 5 + 7 * n % 25, **settings}
    for n, settings in enumerate(
        [
            {"temperature": 0},
            {"temperature": 0, "repetition_penalty": 1.3},
            {"temperature": 0.9, "seed": 1},
            {"temperature": 1.1, "seed": 2, "top_k": 20},
            {"temperature": 0.8, "seed": 3, "top_p": 0.7, "presence_penalty": 0.5},
            {"temperature": 1.0, "seed": 4, "min_p": 0.05, "frequency_penalty": 0.4},
        ]
        * 2
    )
]


@pytest.fixture(scope="module", params=[1, 3], ids=["1 stage", "3 stages"])
def cluster(request):
    with running(stages=request.param, arguments=["--prefill-chunk", "32"]) as cluster:
        yield cluster


@pytest.mark.timeout(60)
def test_company_does_not_change_an_answer(cluster):
    alone = [cluster.complete(**request) for request in REQUESTS]
    with ThreadPoolExecutor(len(REQUESTS)) as pool:  # more than one stage holds at once: there some wait
        together = list(pool.map(lambda request: cluster.complete(**request), REQUESTS))
    assert together == alone
    assert [len(tokens) for tokens in together] == [request["max_tokens"] for request in REQUESTS]


def test_clients_that_leave_disturb_nobody(cluster):
    alone = [cluster.complete(**request) for request in REQUESTS[:4]]

    def leave(number):
        body = REQUESTS[number] | {"max_tokens": 4000, "stream": True}
        with cluster.client.stream("POST", f"{cluster.url}/v1/completions", json=body) as response:
            stream = events(response)
            for _ in range(1 + number % 5):
                next(stream)

    with ThreadPoolExecutor(12) as pool:
        leaving = [pool.submit(leave, number) for number in range(4, 12)]
        together = list(pool.map(lambda request: cluster.complete(**request), REQUESTS[:4]))
        for one in leaving:
            one.result()
    assert together == alone
    deadline = time.monotonic() + 5
    while (view := cluster.cluster())["running"] or any(stage["sequences"] for stage in view["stages"]):
        assert time.monotonic() < deadline, view
        time.sleep(0.05)


@pytest.mark.parametrize("fields", [{"stop": "~"}, {"stop": ["}", "~6V", "{{"]}], ids=["one", "several"])
def test_a_stop_string_ends_the_answer_before_it(cluster, fields):
    body = {"prompt": "x", "max_tokens": 60, "temperature": 1.0, "seed": 5}
    whole = cluster.post("/v1/completions", **body).json()["choices"][0]["text"]
    stopped = cluster.post("/v1/completions", **body, **fields).json()["choices"][0]
    stops = [fields["stop"]] if isinstance(fields["stop"], str) else fields["stop"]
    ends = [whole.index(stop) for stop in stops if stop in whole]
    assert ends, "choose another stop string: the answer has none of these"
    assert (stopped["text"], stopped["finish_reason"]) == (whole[: min(ends)], "stop")
