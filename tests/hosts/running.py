"""`stageline` at the desk of a room, and what it starts on the hosts."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

from tests.cluster.running import Running
from tests.hosts.room import ROOT

STOP_SECONDS = 12


def stageline(*words, **variables):
    """The words of its command line on a machine, where the checkout may not be installed."""
    named = [f"{name}={value}" for name, value in variables.items()]
    return ["env", f"PYTHONPATH={ROOT}", *named, sys.executable, "-m", "coordinator.cli", *words]


def hostfile(room, hosts, name="hosts.json", **fields):
    """Writes one at the desk and returns its name; `hosts` are entries, or hosts of the room."""
    entries = [
        host if isinstance(host, dict) else {"ssh": f"{host.user}@{host.name}", "ips": [host.address]} for host in hosts
    ]
    room.desk.write(name, json.dumps({"hosts": entries, "envs": [f"PYTHONPATH={ROOT}"], **fields}))
    return name


def attempt(room, *words, seconds=20, **variables):
    """A command at the desk that ends by itself: its exit status, 124 if it did not, and what it said on stderr."""
    command = room.desk.entered("timeout", "--kill-after=2", seconds, *stageline(*words, **variables))
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.returncode, done.stderr


class Cluster(Running):
    """A cluster that was started at the desk."""

    @property
    def pid(self):
        """The coordinator's: nsenter waits for it and passes no signal on."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text())


@contextmanager
def cluster_of(room, *words):
    """`stageline up` with these words, ready."""
    with tempfile.NamedTemporaryFile("w", suffix=".log") as log:
        process = subprocess.Popen(
            room.desk.entered(*stageline("up", *words, "--port", "0")),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        cluster = Cluster(process, log)
        try:
            line = process.stdout.readline()
            assert line.startswith("ready http://"), cluster.log
            cluster.url = line.split()[1]
            yield cluster
        finally:
            cluster.client.close()
            if process.poll() is None:
                os.kill(cluster.pid, signal.SIGKILL)
            process.communicate()


def agent_of(host):
    """The process id of its agent; None if there is none."""
    names = ("worker.agent.cli", "coordinator.cli agent run")
    return next((pid for pid, command in host.processes() if any(name in command for name in names)), None)


def left_over(room):
    """Machine -> command lines of what still runs there."""
    found = {name: [command for _, command in machine.processes()] for name, machine in room.machines.items()}
    return {name: commands for name, commands in found.items() if commands}


def eventually(condition, seconds, explain=lambda: ""):
    """The first true value of `condition()`; fails with `explain()` if there is none in time."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, explain()
        time.sleep(0.05)
    return value
