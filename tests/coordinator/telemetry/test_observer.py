"""What the events of requests do to the coordinator's series."""

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.request import Request
from coordinator.telemetry.collector import ClusterCollector
from coordinator.telemetry.metrics import SERIES
from coordinator.telemetry.observer import Observer
from coordinator.telemetry.trace import Anchor
from tests.coordinator.scripted import view
from worker.protocol import Sampling

Samples = dict[tuple[str, ...], float]


@pytest.fixture
def observer() -> Observer:
    observer = Observer(Anchor(1e9, 100.0))
    observer.registry.register(ClusterCollector(lambda: observer.complete(lost, 107.0), observer))
    return observer


lost = view("degraded", state="linking", restarts=2, heartbeat_age_seconds=0.25)


def request(id: str) -> Request:
    return Request(id=id, prompt=(1, 2, 3), max_tokens=4, sampling=Sampling(), stop_tokens=())


def scrape(observer: Observer) -> Samples:
    """Name and label values (without histograms' buckets) -> value."""
    families = text_string_to_metric_families(generate_latest(observer.registry).decode())
    samples = (sample for family in families for sample in family.samples)
    return {(each.name, *each.labels.values()): each.value for each in samples if "le" not in each.labels}


def test_a_scrape_has_the_series_that_are_defined_and_no_other(observer: Observer) -> None:
    observer.refused("not_ready")
    families = text_string_to_metric_families(generate_latest(observer.registry).decode())
    found = {(family.name, family.type): {*family.samples[0].labels} - {"le"} for family in families}
    assert found == {(each.name.removesuffix("_total"), each.kind): {*each.labels} for each in SERIES}


def test_times_of_a_request(observer: Observer) -> None:
    observer.arrived(1, request("a"), 101.0)
    observer.admitted(1, 101.5)
    for now in (103.0, 103.25, 104.0):
        observer.token(1, now)
    observer.ended("a", "length", None, 105.0)
    samples = scrape(observer)
    assert {name: samples[f"stageline_{name}_seconds_sum",] for name in TIMES} == TIMES
    assert samples["stageline_inter_token_seconds_count",] == 2
    assert samples["stageline_request_prompt_tokens_sum",] == 3
    assert samples["stageline_request_generated_tokens_sum",] == 3
    assert (samples["stageline_prompt_tokens_total",], samples["stageline_generated_tokens_total",]) == (3, 3)


TIMES = {"request_queue": 0.5, "time_to_first_token": 2.0, "inter_token": 1.0, "request": 4.0}


def test_each_request_counts_once(observer: Observer) -> None:
    for number, reason in enumerate(("stop", "length", "length", "cancelled", "error")):
        observer.arrived(number, request(f"id-{number}"), 101.0)
        observer.admitted(number, 101.0)
        observer.ended(f"id-{number}", reason, "stage_failed" if reason == "error" else None, 102.0)  # type: ignore[arg-type]
    observer.ended("never taken", "error", "not_ready", 103.0)
    observer.arrived(9, request("without a place"), 101.0)
    observer.ended("without a place", "error", "not_ready", 103.0)
    observer.arrived(10, request("left while it waited"), 101.0)
    observer.ended("left while it waited", "cancelled", None, 103.0)
    observer.refused("invalid_value")
    samples = scrape(observer)
    finished = {key[1]: value for key, value in samples.items() if key[0] == "stageline_requests_finished_total"}
    assert finished == {"stop": 1, "length": 2, "cancelled": 2, "error": 1}
    rejected = {key[1]: value for key, value in samples.items() if key[0] == "stageline_requests_rejected_total"}
    assert rejected == {"not_ready": 2, "invalid_value": 1}
    assert samples["stageline_request_seconds_count",] == 6


def test_tokens_of_a_request_that_is_over_do_not_count(observer: Observer) -> None:
    observer.token(1, 101.0)
    observer.admitted(1, 101.0)
    assert scrape(observer)["stageline_generated_tokens_total",] == 0


def test_the_cluster_as_it_is(observer: Observer) -> None:
    samples = scrape(observer)
    assert samples["stageline_ready",] == 0
    assert samples["stageline_requests_running",] == 1
    assert [samples["stageline_stage_up", stage] for stage in "01"] == [1, 0]
    assert [samples["stageline_stage_restarts_total", stage] for stage in "01"] == [0, 2]
    ages = {key: value for key, value in samples.items() if key[0] == "stageline_stage_heartbeat_age_seconds"}
    assert ages == {("stageline_stage_heartbeat_age_seconds", "1"): 0.25}  # the first one has never sent one
