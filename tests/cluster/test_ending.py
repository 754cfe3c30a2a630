"""How `stageline up` ends: at any moment, whatever its output is connected to, with nothing left behind."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from coordinator.demo import write_tokenizer
from tests.checkpoints import BASE, make
from tests.cluster.running import COMMAND, alive, running

SHELL = f'exec "{sys.executable}" -m coordinator.cli up --port 0'
RUNAWAY = (
    "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}"
)


def until(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def children(pid):
    said = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in said.splitlines() if int(line.split()[1]) == pid]


def worker_demo(pid):
    """The process that makes the demo model."""
    for child in children(pid):
        said = subprocess.run(["ps", "-o", "args=", "-p", str(child)], capture_output=True, text=True).stdout
        if "worker.demo" in said:
            return child
    return None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_while_its_own_modules_are_imported(number):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *COMMAND[1:], "up", "--port", "0"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert any(line.split()[-1] == "asyncio" for line in process.stderr)  # the first of many
        process.send_signal(number)
        process.communicate(timeout=10)
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL], ids=lambda number: number.name)
def test_while_the_demo_model_is_made(number, tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0"],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        maker = until(lambda: worker_demo(process.pid))
        until(lambda: list(tmp_path.rglob("making-*")))
        process.send_signal(number)
        _, said = process.communicate(timeout=10)
        assert (process.returncode, said) == (-9 if number == signal.SIGKILL else 0, "")
        until(lambda: not alive(maker))
        assert not list(tmp_path.rglob("making-*"))
    finally:
        process.kill()
        process.communicate()


def test_a_signal_that_is_ignored_stays_ignored():
    """As nohup has it."""
    ignoring = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh"]
    with running(before=ignoring, stages=1) as cluster:
        cluster.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert cluster.get("/ready").status_code == 200


def test_a_low_limit_of_descriptors_is_raised():
    """macOS gives a process 256 unless it asks for more."""
    limited = ["sh", "-c", 'ulimit -S -n 128; exec "$@"', "sh"]
    with running(before=limited, stages=1) as cluster, ExitStack() as clients:
        address = ("127.0.0.1", int(cluster.url.rsplit(":", 1)[1]))
        for _ in range(150):
            clients.enter_context(socket.create_connection(address))
        assert cluster.get("/ready").status_code == 200


def test_a_template_that_does_not_end_and_an_upload_that_stalls(tmp_path):
    make(tmp_path, BASE | {"vocab_size": 272})
    write_tokenizer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(RUNAWAY)
    with running(tmp_path, stages=1) as cluster:
        port = int(cluster.url.rsplit(":", 1)[1])
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost:{port}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{{\r\n"
        )
        chat = b'{"messages": [{"role": "user", "content": "x"}]}'
        whole = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(chat)}\r\n\r\n"
        with (
            socket.create_connection(("127.0.0.1", port)) as stalled,
            socket.create_connection(("127.0.0.1", port)) as runaway,
        ):
            stalled.sendall(head.encode())
            runaway.sendall(whole.encode() + chat)
            assert cluster.complete([1, 2, 3], 2)  # others are served meanwhile
            started = time.monotonic()
            cluster.process.send_signal(signal.SIGTERM)
            assert cluster.process.wait(timeout=10) == 0
            assert time.monotonic() - started < 8
            for client in (stalled, runaway):
                assert client.recv(100).startswith(b"HTTP/1.1 503")
        assert "Traceback" not in cluster.log
        assert "Exception" not in cluster.log


@pytest.mark.parametrize(
    ("redirection", "said"),
    [(">/dev/full", "No space left on device"), (">&-", "standard output is closed")],
    ids=["full", "closed"],
)
def test_when_the_ready_line_cannot_be_written(redirection, said):
    if redirection == ">/dev/full" and not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    done = subprocess.run(
        ["sh", "-c", f"{SHELL} --stages 1 {redirection}"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("errors", [subprocess.PIPE, None], ids=["reader gone", "closed"])
def test_when_nobody_reads_it_goes_on(errors):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    closing = "" if errors else "2>&-"
    process = subprocess.Popen(
        ["sh", "-c", f"{SHELL} --port {port} --stages 1 {closing}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=errors,
    )
    try:
        process.stdout.close()
        if errors:
            process.stderr.close()
        until(lambda: is_ready(port), 15)
        pids = children(process.pid)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
        assert not any(map(alive, pids))
    finally:
        process.kill()
        process.wait()


def is_ready(port):
    try:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return client.recv(100).startswith(b"HTTP/1.1 200")
    except OSError:
        return False
