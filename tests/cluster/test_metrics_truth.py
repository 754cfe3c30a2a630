"""The numbers of a real three-stage cluster, scraped from outside, are true.

One stage can be slowed while the cluster runs, as long as a file is there (`slow/sitecustomize.py`).
"""

import os
import signal
import statistics
import time
from collections import defaultdict
from typing import NamedTuple

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.running import events, running
from tests.cluster.slowed import slow_down

pytestmark = pytest.mark.timeout(120)  # it measures for a while, on machines that others use too
STAGES = 3
SLOW_STAGE, DELAY = 1, 0.020
FIRST = {"prompt": "hello", "max_tokens": 40, "ignore_eos": True}


class Shares(NamedTuple):
    """Seconds of a decode step at one stage; `hop` is that of the measured ones, to the next stage."""

    wait: float
    queue: float
    compute: float
    encode: float
    hop: float


class Watched:
    """A running cluster and its workers' metrics."""

    def __init__(self, cluster, flag):
        self.cluster, self.flag = cluster, flag
        self.first = cluster.complete(**FIRST)
        self.measured = [self.scrape(stage)["sampled_steps_total"] for stage in range(STAGES)]

    def targets(self):
        found = self.cluster.get("/metrics/targets").json()
        return {int(t["labels"]["stage"]): t["targets"][0] for t in found if "stage" in t["labels"]}

    def fetch(self, stage, path):
        return httpx.get(f"http://{self.targets()[stage]}{path}", trust_env=False)

    def scrape(self, stage):
        """Values by name, of all labels together but without prefill."""
        values = defaultdict(float)
        for family in text_string_to_metric_families(self.fetch(stage, "/metrics").text):
            for sample in family.samples:
                if "le" not in sample.labels and sample.labels.get("phase") != "prefill":
                    values[sample.name.removeprefix("stageline_stage_")] += sample.value
        return values

    def decodes(self, stage):
        """Compute seconds of the last decode steps."""
        steps = self.fetch(stage, "/trace").json()["steps"]
        return [computed - start for start, computed, _, phase, _, _ in steps if phase == "decode"]

    def generate(self, tokens):
        """Streams one answer; the mean interval of its tokens by this process's clock, and the means of each stage."""
        before = [self.scrape(stage) for stage in range(STAGES)]
        body = {"prompt": "hello", "max_tokens": tokens, "temperature": 0, "ignore_eos": True, "stream": True}
        with self.cluster.client.stream("POST", f"{self.cluster.url}/v1/completions", json=body) as response:
            stamps = [time.monotonic() for _, data in events(response) if data != "[DONE]"]
        after = [self.scrape(stage) for stage in range(STAGES)]
        seconds = (stamps[tokens - 1] - stamps[0]) / (tokens - 1)
        return seconds, [shares(*pair) for pair in zip(before, after, strict=True)]


def shares(before, after):
    more = {name: after[name] - before[name] for name in after}
    return Shares(*(more[f"{part}_seconds_sum"] / max(more[f"{part}_seconds_count"], 1) for part in Shares._fields))


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    flag = tmp_path_factory.mktemp("slowed") / "flag"
    with pytest.MonkeyPatch.context() as patch:
        slow_down(patch, step=DELAY, stage=SLOW_STAGE, flag=flag)
        with running(stages=STAGES) as cluster:
            yield Watched(cluster, flag)


def test_the_parts_of_all_stages_and_the_hops_are_the_interval_between_tokens(watched):
    ratios, covered = [], []
    for _ in range(3):
        seconds, stages = watched.generate(200)
        ratios.append(sum(s.queue + s.compute + s.encode + s.hop for s in stages) / seconds)
        covered += [(s.wait + s.queue + s.compute + s.encode) / seconds for s in stages]
    assert statistics.median(ratios) == pytest.approx(1, abs=0.05), (ratios, stages)
    assert statistics.median(covered) == pytest.approx(1, abs=0.03), (covered, stages)


def test_a_slow_stage_shows_in_its_own_compute_and_nowhere_else(watched):
    """Blocks of steps with and without the delay by turns. Medians: another tenant of the machine is not our stage."""
    tokens, compute, others = 30, [[] for _ in range(STAGES)], [[] for _ in range(STAGES)]
    for _ in range(5):
        blocks = []
        for slow in (False, True):
            if slow:
                watched.flag.touch()
            _, found = watched.generate(tokens)
            watched.flag.unlink(missing_ok=True)
            steps = [watched.decodes(stage)[-tokens + 1 :] for stage in range(STAGES)]
            blocks.append((found, [statistics.median(seconds) for seconds in steps]))
        (before, quick), (after, slowed) = blocks
        for stage in range(STAGES):
            compute[stage].append(slowed[stage] - quick[stage])
            others[stage].append([new - old for old, new in zip(before[stage], after[stage], strict=True)])
    for stage in range(STAGES):
        expected = DELAY if stage == SLOW_STAGE else 0
        assert statistics.median(compute[stage]) == pytest.approx(expected, abs=0.002), (stage, compute)
        medians = Shares(*map(statistics.median, zip(*others[stage], strict=True)))
        assert (medians.queue, medians.encode, medians.hop) == pytest.approx((0, 0, 0), abs=0.002), (stage, others)
        if stage != SLOW_STAGE:
            assert medians.wait > DELAY / 2, (stage, others)


def test_the_trace_and_the_histograms_are_of_the_same_steps(watched):
    for stage in range(STAGES):
        steps, values = watched.decodes(stage), watched.scrape(stage)
        assert len(steps) == values["compute_seconds_count"] > 0
        assert sum(steps) == pytest.approx(values["compute_seconds_sum"])


def test_steps_that_are_measured_by_kind_of_layer_change_no_token(watched):
    with running(stages=1) as alone:
        assert alone.complete(**FIRST) == watched.first
    for stage in range(STAGES):
        assert watched.measured[stage] >= 1  # within the first answer
        values = watched.scrape(stage)
        usual = values["compute_seconds_sum"] / values["compute_seconds_count"]
        assert usual / 10 < values["layer_seconds_total"] / values["sampled_steps_total"] < 10 * usual


def test_a_dead_workers_endpoint_is_gone_and_a_new_one_starts_from_nothing(watched):
    old = watched.targets()[2]
    os.kill(watched.cluster.pids()[2], signal.SIGKILL)
    deadline = time.monotonic() + 5
    while 2 in watched.targets():
        assert time.monotonic() < deadline
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{old}/metrics", trust_env=False)
    watched.cluster.wait_until_ready()
    assert watched.targets()[2] != old
    assert watched.scrape(2)["compute_seconds_count"] == 0
    assert [watched.scrape(stage)["epoch"] for stage in range(STAGES)] == [2] * STAGES
