"""A real Prometheus with the configuration of `deploy/monitoring`, as a process of its own."""

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager

import httpx
import pytest

from tests.monitoring.files import FOLDER

CONFIGURATION = FOLDER / "prometheus"
START_SECONDS = 15


def binary(name):
    """Its path. Without it the test is skipped, or fails where `.ci/run` has seen to it that it is there."""
    path = shutil.which(name)
    if path is None and os.environ.get("STAGELINE_REQUIRE_MONITORING"):
        pytest.fail(f"{name} is not installed, although STAGELINE_REQUIRE_MONITORING says so")
    if path is None:
        pytest.skip(f"{name} is not installed: `apt-get install prometheus` brings it")
    return path


def promtool(*arguments, text=None):
    """Its output; fails with it if promtool complains."""
    done = subprocess.run([binary("promtool"), *map(str, arguments)], input=text, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url):
        self._client = httpx.Client(base_url=url, timeout=10, trust_env=False)

    def query(self, expression):
        """The instant vector: [(labels, value)]; fails if the expression is wrong."""
        answer = self._client.post("/api/v1/query", data={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer['error']}"
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def targets(self):
        """Discovered labels and health of everything that is scraped."""
        active = self._client.get("/api/v1/targets", params={"state": "active"}).json()["data"]["activeTargets"]
        return [each["labels"] | {"health": each["health"], "error": each["lastError"]} for each in active]

    def series(self):
        """Names of all series."""
        return set(self._client.get("/api/v1/label/__name__/values").json()["data"])

    def answers(self):
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self):
        self._client.close()


@contextmanager
def prometheus(cluster_url, folder, api_key=None):
    """Runs in `folder` until the context ends. Of the shipped configuration only the coordinator's address and the
    paces are changed, and with `api_key` the lines for it are taken out of their comments."""
    configuration = folder / "configuration"
    shutil.copytree(CONFIGURATION, configuration)
    text = (configuration / "prometheus.yml").read_text()
    changes = {
        "url: http://127.0.0.1:8000/": f"url: {cluster_url}/",
        "scrape_interval: 5s": "scrape_interval: 1s",
        "evaluation_interval: 5s": "evaluation_interval: 1s",
        "refresh_interval: 5s": "refresh_interval: 1s",
    }
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    if api_key is not None:
        (configuration / "api_key").write_text(api_key + "\n")
        assert text.count("#authorization") == 2
        text = text.replace("#authorization", "authorization")
    (configuration / "prometheus.yml").write_text(text)
    promtool("check", "config", configuration / "prometheus.yml")
    address = f"127.0.0.1:{free_port()}"
    command = [
        binary("prometheus"),
        f"--config.file={configuration / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    server = Prometheus(f"http://{address}")
    try:
        eventually(server.answers, START_SECONDS, (folder / "log").read_text)
        yield server
    finally:
        server.close()
        process.terminate()
        process.wait(timeout=10)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def eventually(condition, seconds, explain=lambda: ""):
    """The first true value of `condition()`; fails with `explain()` if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)
    return value
