"""A worker's process as an agent starts it on another host: over TCP, with keys and a name."""

import asyncio
import subprocess
import sys
import time

import httpx
import pytest

from coordinator.control import Control
from worker.links.keyring import Keyring
from worker.protocol import Hello, Stop

WAIT_SECONDS = 15.0


@pytest.fixture
def keys(tmp_path):
    """Of the coordinator, and of a host that it lets in."""
    coordinator, host = Keyring(tmp_path / "coordinator"), Keyring(tmp_path / "host")
    coordinator.new()
    host.new()
    host.trust(coordinator.public)
    coordinator.add("studio-1", host.public)
    return coordinator, host


def worker(control, runtime, *arguments):
    command = [sys.executable, "-m", "worker.cli", "--control", control, "--session", "one", "--stage", "0"]
    return subprocess.Popen(
        [*command, "--stages", "2", "--runtime", str(runtime), *arguments], stderr=subprocess.PIPE, text=True
    )


def scrape(address):
    return httpx.get(f"http://{address}/metrics", trust_env=False).text


def test_a_worker_on_another_host_reports_over_curve(keys, tmp_path):
    coordinator, host = keys

    async def main():
        heard = []
        control = Control(receive=lambda *event: heard.append(event), keyring=coordinator)
        endpoint = control.bind("tcp://127.0.0.1:*")
        arguments = ["--host", "studio-1", "--address", "127.0.0.1", "--keys", str(host.directory)]
        with worker(endpoint, tmp_path, *arguments) as process:
            deadline = time.monotonic() + WAIT_SECONDS
            while len({type(message) for _, _, message in heard}) < 2:  # of the worker, and of its pulse
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)
            (hello,) = [message for _, _, message in heard if isinstance(message, Hello)]
            assert hello.host == "studio-1"
            metrics = await asyncio.to_thread(scrape, hello.metrics)
            assert 'stageline_stage_refused_connections_total{reason="unknown_key",stage="0"} 0.0' in metrics
            control.send(0, "one", Stop())
            assert await asyncio.to_thread(process.wait, WAIT_SECONDS) == 0
        assert {(stage, session) for stage, session, _ in heard} == {(0, "one")}
        assert control.refused.total() == 0
        control.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--keys", "none"], "coordinator: no such file: `stageline keys add --coordinator KEY`"),
        (["--address", "192.0.2.1", "--insecure"], "the metrics server cannot listen at 192.0.2.1"),
        (["--address", "192.0.2.1"], "other machines reach 192.0.2.1: give --keys, or --insecure if the network is"),
        (["--address", "desk"], "'desk' is not an IP address"),
    ],
    ids=["no keys", "another host's address", "open to others", "a name"],
)
def test_what_cannot_work_ends_with_a_line(tmp_path, arguments, says):
    with worker("tcp://127.0.0.1:1", tmp_path, *arguments) as process:
        _, errors = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode in (1, 2)
    assert says in errors
    assert "Traceback" not in errors
