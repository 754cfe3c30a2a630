"""A real Prometheus beside a live cluster of three stages: what is scraped, shown and alarmed is there and true."""

import math
import os
import re
import signal
import threading

import pytest

from tests.cluster.running import events, running
from tests.monitoring.files import COMPARISON, FOLDER, documented, empty_until, queries, rules
from tests.monitoring.prometheus import binary, eventually, prometheus, promtool

pytestmark = pytest.mark.timeout(120)  # a cluster, a Prometheus, and what it sees once a second
VARIABLES = {"$__rate_interval": "20s", "$__interval": "5s", "$stage": ".*"}
KEY = "only-for-this-test"
PROMPT = "once upon a time " * 8


@pytest.mark.parametrize("what", ["config", "rules"])
def test_promtool_checks_the_configuration(what):
    files = {"config": ["prometheus.yml"], "rules": ["recording.yml", "alerts.yml"]}[what]
    assert "SUCCESS" in promtool("check", what, *(FOLDER / "prometheus" / name for name in files))


def test_rules_fire_when_they_must_and_only_then():
    assert "SUCCESS" in promtool("test", "rules", FOLDER.parents[1] / "tests/monitoring/rules_test.yml")


class Load:
    """Requests one after the other, in a thread, until the context ends."""

    def __init__(self, cluster):
        self._cluster = cluster
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._thread.join()

    def _run(self):
        while not self._over.wait(0.05):
            self._cluster.complete(PROMPT, 64, ignore_eos=True)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    binary("prometheus")  # before anything is started
    settings = tmp_path_factory.mktemp("settings") / "cluster.toml"
    settings.write_text("restart_delay = 10.0\n")  # Prometheus drops a target that is no longer listed within 6 s
    with running(stages=3, arguments=["--config", str(settings)]) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def server(cluster, tmp_path_factory):
    with prometheus(cluster.url, tmp_path_factory.mktemp("prometheus")) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """The Prometheus of a cluster that asks for a key."""
    with running(stages=1, arguments=["--api-key", KEY]) as cluster:
        cluster.client.headers["x-api-key"] = KEY
        with prometheus(cluster.url, tmp_path_factory.mktemp("guarded"), KEY) as server:
            yield server


def shown(expression):
    """As Grafana would ask for it; a comparison gives 0 or 1 instead of dropping what does not hold."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    return COMPARISON.sub(r" \1 bool ", expression)


def test_a_cluster_with_an_api_key_is_scraped_with_it(server, guarded):
    """Prometheus takes five seconds to begin with targets that it is told of, so the other one runs already."""
    eventually(lambda: len(guarded.query("up == 1")) == 2, 15, guarded.targets)
    assert guarded.query("stageline_info")


def test_workers_and_coordinator_are_discovered(server):
    def all_up():
        return len(server.targets()) == 4 and all(target["health"] == "up" for target in server.targets())

    eventually(all_up, 15, server.targets)
    found = sorted((target["job"], target.get("stage", "")) for target in server.targets())
    assert found == [("stageline-coordinator", ""), *(("stageline-stage", stage) for stage in "012")]


def test_every_expression_of_dashboards_and_rules_has_data(cluster, server):
    refused = cluster.post("/v1/completions", prompt="x", n=2)
    assert refused.status_code == 400
    with cluster.client.stream(
        "POST", f"{cluster.url}/v1/completions", json={"prompt": "x", "max_tokens": 4000, "stream": True}
    ) as response:
        next(events(response))  # and leave
    with Load(cluster):
        missing = {where: (expression, legend) for where, expression, legend in queries()}
        excused = {where for where, query in missing.items() if any(part in query[0] for part in empty_until())}

        def nothing_missing():
            for where, (expression, legend) in list(missing.items()):
                data = [labels for labels, value in server.query(shown(expression)) if math.isfinite(value)]
                if data:
                    assert set(re.findall(r"{{(\w+)}}", legend)) <= set(data[0]), where
                    del missing[where]
            return set(missing) <= excused

        eventually(nothing_missing, 60, lambda: {where: shown(missing[where][0]) for where in set(missing) - excused})
    assert excused == set(missing), "docs/monitoring.md says that these are empty until something happens"
    for event in ('rejected_total{code="unsupported_value"}', 'finished_total{reason="cancelled"}'):
        eventually(lambda event=event: [value for _, value in server.query(f"stageline_requests_{event}")] == [1], 5)


def test_what_is_exported_is_documented(server):
    exported = {re.sub(r"_(bucket|sum|count)$", "", name) for name in server.series() if name.startswith("stageline_")}
    assert exported == documented()


def test_no_label_holds_a_request(server):
    known = {"__name__", "job", "instance", "stage", "phase", "kind", "reason", "code", "le"}
    described = {"layers", "pattern", "backend", "host", "version", "model", "stages"}
    for labels, _ in server.query('{__name__=~"stageline_.*"}'):
        extra = described if labels["__name__"].endswith("_info") else set()
        assert set(labels) <= known | extra, labels


def test_scrapes_follow_the_conventions(cluster, server):
    for target in server.targets():
        scraped = cluster.client.get(f"http://{target['instance']}/metrics")
        assert scraped.headers["content-type"].startswith("text/plain")
        promtool("check", "metrics", text=scraped.text)


def test_no_alert_holds_in_a_healthy_cluster(server):
    held = {rule["alert"]: server.query(rule["expr"]) for rule in rules("alerts")}
    assert {alert: data for alert, data in held.items() if data} == {}


def test_a_killed_stage_is_seen_as_down_and_its_series_go_away(cluster, server):
    os.kill(cluster.pids()[1], signal.SIGKILL)  # the first restart is immediate, the second one is not
    cluster.wait_until_ready()
    eventually(lambda: server.query('stageline_stage_restarts_total{stage="1"} == 1'), 5)
    before = eventually(lambda: three_workers(server), 15, server.targets)
    os.kill(cluster.pids()[1], signal.SIGKILL)
    (down,) = (rule["expr"] for rule in rules("alerts") if rule["alert"] == "StagelineStageDown")
    eventually(lambda: [labels["stage"] for labels, _ in server.query(down)] == ["1"], 5)
    eventually(lambda: not server.query('stageline_stage_epoch{stage="1"}'), 5)
    assert {labels["stage"] for labels, _ in server.query("stageline_stage_epoch")} == {"0", "2"}
    eventually(lambda: not server.query('up{job="stageline-stage", stage="1"}'), 10, server.targets)
    cluster.wait_until_ready()
    after = eventually(lambda: three_workers(server), 15, server.targets)
    assert [stage for stage in "012" if before[stage] != after[stage]] == ["1"]
    eventually(lambda: not server.query(down), 5)
    assert [value for _, value in server.query('stageline_stage_restarts_total{stage="1"}')] == [2]
    assert cluster.complete("hello", 4)


def three_workers(server):
    """Stage -> address, if all three answer; else None."""
    found = {labels["stage"]: labels["instance"] for labels, _ in server.query('up{job="stageline-stage"} == 1')}
    return found if len(found) == 3 else None
