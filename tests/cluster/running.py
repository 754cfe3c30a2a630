"""`stageline up` as a process of its own, and what a client sees of it."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 18
COMMAND = [sys.executable, "-m", "coordinator.cli"]


class Running:
    """A running cluster; `log` is what it said on stderr."""

    def __init__(self, process, log):
        self.process = process
        self.log_file = log
        self.url = ""
        self.client = httpx.Client(timeout=15, trust_env=False)

    @property
    def log(self):
        return Path(self.log_file.name).read_text()

    def get(self, path):
        return self.client.get(self.url + path)

    def post(self, path, **body):
        return self.client.post(self.url + path, json=body)

    def complete(self, prompt, max_tokens=64, **fields):
        """Token ids of a greedy completion."""
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "return_token_ids": True} | fields
        answer = self.post("/v1/completions", **body)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]["token_ids"]

    def cluster(self):
        return self.get("/cluster").json()

    def pids(self):
        return [stage["pid"] for stage in self.cluster()["stages"]]

    def wait_until_ready(self, seconds=15):
        deadline = time.monotonic() + seconds
        while self.get("/ready").status_code != 200:
            assert time.monotonic() < deadline, self.cluster()
            time.sleep(0.02)

    def runtime_directory(self):
        (path,) = Path("/tmp").glob(f"stageline-{os.getuid()}-*/*.{self.pids()[0]}")
        return path.parent


@contextmanager
def running(model=None, *, stages=2, arguments=(), stop=signal.SIGTERM, before=()):
    """A ready cluster on a free port; ended in order, and checked for leftovers, when the context ends.

    `before` are words of the command line that start the command after them.
    """
    command = [
        *before,
        *COMMAND,
        "up",
        *([str(model)] if model else []),
        "--stages",
        str(stages),
        "--port",
        "0",
        *arguments,
    ]
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True)
        cluster = Running(process, log)
        try:
            line = process.stdout.readline()
            assert line.startswith("ready http://"), cluster.log
            cluster.url = line.split()[1]
            yield cluster
            if process.poll() is None:
                pids = cluster.pids()
                process.send_signal(stop)
                assert process.wait(timeout=10) == 0, cluster.log
                assert not any(map(alive, pids))
        finally:
            cluster.client.close()
            if process.poll() is None:
                process.kill()
            process.communicate()


def alive(pid):
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return bool(state) and not state.startswith("Z")


def events(response):
    """Server-sent events of a streamed answer: (event name, data)."""
    name = "message"
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield name, data if data == "[DONE]" else json.loads(data)
            name = "message"
