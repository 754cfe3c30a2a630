"""The coordinator's part, played by a test against a real agent process."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import zmq

from worker.agent.messages import Beat, FromAgent, Hail, Survey, Surveyed
from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.links.wire import decode, encode
from worker.protocol import FromWorker, Message

ROOT = Path(__file__).parents[3]
PATIENCE = 15.0


class Coordinator:
    """A ROUTER on loopback. Messages of agents are handed out one by one, those of workers are kept in `workers`."""

    def __init__(self, keys: Keyring | None = None) -> None:
        self.context = zmq.Context()
        self.gate = Gate(self.context, keys) if keys else None
        self.workers: list[tuple[str, Message]] = []
        self.beating = True
        self.open("tcp://127.0.0.1:*")

    def open(self, endpoint: str) -> None:
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        if self.gate is not None:
            self.gate.guard(self.socket, name="control", allowed=self.knows)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.socket.bind(endpoint)
                break
            except zmq.ZMQError:  # ZeroMQ closes its sockets a moment later
                assert time.monotonic() < deadline
                time.sleep(0.05)
        self.endpoint = self.socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def knows(self, key: str) -> bool:
        assert self.gate is not None
        return self.gate.keyring.name_of(key) is not None

    def say(self, who: str, message: Message) -> None:
        self.socket.send_multipart([who.encode(), encode(message)])

    def hear(self, kind: type, seconds: float = PATIENCE) -> tuple[str, Any]:
        """The next message of this kind and who sent it; those of other kinds before it are passed over."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self.socket.poll(int(left * 1000)):
                break
            identity, frame = self.socket.recv_multipart()
            who = identity.decode()
            if not who.startswith("agent-"):
                self.workers.append((who, decode(frame, FromWorker)))
                if isinstance(self.workers[-1][1], kind):
                    return self.workers[-1]
                continue
            message = decode(frame, FromAgent)
            if isinstance(message, Beat) and self.beating:
                self.say(who, message)
            if isinstance(message, kind):
                return who, message
        raise AssertionError(f"no {kind.__name__} within {seconds} s")

    def surveyed(self, **fields: Any) -> tuple[str, Hail, Surveyed]:
        """An agent that has hailed and was surveyed."""
        who, hail = self.hear(Hail)
        self.say(who, Survey(**{"model": "", "peers": (), "silence": 3.0, **fields}))
        return who, hail, self.hear(Surveyed)[1]

    def close(self) -> None:
        self.socket.close()
        if self.gate is not None:
            self.gate.close()
        self.context.term()


@contextmanager
def coordinator(keys: Keyring | None = None) -> Iterator[Coordinator]:
    playing = Coordinator(keys)
    try:
        yield playing
    finally:
        playing.close()


class Agent:
    """A running agent process; `log` is what it said on stderr."""

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def ends(self, seconds: float = PATIENCE) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the agent is still there: {self.log}") from None

    def says(self, text: str, seconds: float = PATIENCE) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log:
            assert time.monotonic() < deadline, self.log
            time.sleep(0.05)


@contextmanager
def agent(
    endpoint: str, *arguments: str, name: str = "here", insecure: bool = True, **environment: str
) -> Iterator[Agent]:
    command = [sys.executable, "-P", "-m", "worker.agent.cli", "--coordinator", endpoint, "--name", name]
    command += [*arguments, *(["--insecure"] if insecure else [])]
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        running = Agent(process, Path(log.name))
        try:
            yield running
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
            process.communicate()


def runtime_of(pid: int) -> Path:
    """The runtime directory that this worker was told; Linux."""
    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return Path(words[words.index("--runtime") + 1])


def environment_of(pid: int) -> dict[str, str]:
    """What this process was given when it was started; Linux."""
    deadline = time.monotonic() + PATIENCE
    # empty for a moment: exec lets the parent go on before it has set it up
    while not (found := Path(f"/proc/{pid}/environ").read_bytes()):
        assert time.monotonic() < deadline
    entries = found.decode().split("\0")
    return dict(entry.split("=", 1) for entry in entries if entry)


def gone(pid: int, seconds: float = PATIENCE) -> bool:
    """Whether this process ends in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
        if not state or state.startswith("Z"):
            return True
        time.sleep(0.05)
    return False
