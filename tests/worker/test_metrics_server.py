"""What a worker tells over HTTP: every series that is defined and no other, and its last steps."""

import socket
import struct
import time

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from worker.footprint import Footprint
from worker.protocol import Segment
from worker.telemetry import metrics
from worker.telemetry.collector import WorkerCollector
from worker.telemetry.facts import Facts
from worker.telemetry.histograms import Histograms
from worker.telemetry.memory import Memory
from worker.telemetry.percentile import percentile
from worker.telemetry.series import new_registry
from worker.telemetry.server import MetricsServer
from worker.telemetry.vitals import Vitals

FACTS = Facts(
    first=4,
    end=8,
    pattern="ME*M",
    backend="cpu",
    host="here",
    fused_layers=0,
    fused_rows=0,
    parameter_bytes=1000,
    bandwidth=5e9,
    state=Footprint(1, 0),
    memory="here",
    usable_bytes=0,
    read_bytes=lambda rows: 100.0 * rows,
)


class Worker:
    """The numbers of stage 2 behind a server."""

    def __init__(self):
        registry = new_registry()
        self.vitals = Vitals(2, Histograms(registry, 2))
        registry.register(WorkerCollector(2, self.vitals))
        self.server = MetricsServer(registry, self.vitals.trace)

    def get(self, path):
        return httpx.get(f"http://{self.server.endpoint}{path}", trust_env=False)

    def step(self, phase, count, start, seconds, **extra):
        now = {"since": start - 0.5, "now": start}
        self.vitals.timesheet.launched(phase, (Segment(1, 0, count, True),), **now)
        self.vitals.step_finished(start + seconds, start + seconds + 0.25, extra.get("layer_seconds"))
        self.vitals.settle()

    def scrape(self):
        """Families by name, samples by their labels."""
        families = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            assert all(sample.labels.pop("stage") == "2" for sample in family.samples)
            families[family.name] = family
        return families

    def value(self, name, **labels):
        (value,) = [
            sample.value
            for family in self.scrape().values()
            for sample in family.samples
            if (sample.name, sample.labels) == (f"stageline_stage_{name}", labels)
        ]
        return value


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.server.close()


@pytest.fixture
def loaded(worker):
    worker.vitals.facts = FACTS
    worker.vitals.begin(3, lambda: 11)
    worker.vitals.measure(Memory(active=70, peak=80, state=30, sequences=2))
    return worker


def test_every_defined_series_is_there_and_no_other(loaded):
    loaded.step("decode", 1, 1.0, 0.5, layer_seconds={"mamba": 0.25})
    defined = {series.name.removesuffix("_total"): series for series in metrics.SERIES}
    scraped = loaded.scrape()
    assert scraped.keys() == defined.keys()
    for name, family in scraped.items():
        assert (family.type, family.documentation) == (defined[name].kind, defined[name].meaning)
        labels = set(defined[name].labels) - {"stage"}
        assert all(set(sample.labels) - {"le"} == labels for sample in family.samples)


def test_a_worker_that_loads_says_nothing_of_its_layers(worker):
    missing = {series.name for series in metrics.SERIES if series.empty == metrics.NOT_LOADED}
    assert missing
    assert not missing & worker.scrape().keys()


def test_steps_are_counted_by_phase(loaded):
    loaded.step("prefill", 7, 1.0, 0.5)
    loaded.step("decode", 2, 10.0, 0.25)
    loaded.step("decode", 2, 20.0, 0.75)
    assert loaded.value("compute_seconds_sum", phase="decode") == 1.0
    assert loaded.value("compute_seconds_count", phase="prefill") == 1
    assert loaded.value("queue_seconds_sum", phase="decode") == 1.0
    assert loaded.value("encode_seconds_sum", phase="prefill") == 0.25
    assert [loaded.value("rows_total", phase=phase) for phase in ("prefill", "decode")] == [7, 4]
    assert loaded.value("fallback_steps_total") == 2
    assert loaded.value("read_bytes_per_second") == 400.0


def test_what_is_held_now(loaded):
    names = ["epoch", "credits", "memory_active_bytes", "memory_peak_bytes", "state_bytes", "sequences"]
    assert [loaded.value(name) for name in names] == [3, 11, 70, 80, 30, 2]
    assert loaded.value("parameter_bytes") == 1000
    assert [loaded.value("layers", kind=kind) for kind in ("mamba", "moe", "attention", "mlp")] == [2, 1, 1, 0]
    assert loaded.value("memory_bandwidth_bytes_per_second") == 5e9


def test_the_trace_has_the_last_steps_and_one_moment_by_two_clocks(loaded):
    loaded.step("prefill", 7, 1.0, 0.5)
    loaded.step("decode", 1, 2.0, 0.25)
    trace = loaded.get("/trace").json()
    assert trace["steps"] == [[1.0, 1.5, 1.75, "prefill", 7, [1]], [2.0, 2.25, 2.5, "decode", 1, [1]]]
    assert trace["stage"] == 2
    offset = trace["anchor_unix"] - trace["anchor_monotonic"]
    assert offset == pytest.approx(time.time() - time.monotonic(), abs=0.1)


def test_another_path_names_those_there_are(worker):
    answer = worker.get("/")
    assert answer.status_code == 404
    assert "/metrics and /trace" in answer.text


def test_percentiles_are_values_that_were_there():
    assert [percentile(range(1, 65), share) for share in (0.5, 0.95)] == [32, 61]
    assert [percentile(values, 0.95) for values in ([], [7.0])] == [0.0, 7.0]


def test_who_hangs_up_at_once_leaves_no_traceback(worker, capfd):
    host, port = worker.server.endpoint.split(":")
    for request in (b"GET /metrics HTTP/1.0\r\n\r\n", b"GET /met"):
        with socket.create_connection((host, int(port))) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not an orderly end
            client.sendall(request)
    assert worker.get("/metrics").status_code == 200
    time.sleep(0.2)
    assert capfd.readouterr().err == ""
