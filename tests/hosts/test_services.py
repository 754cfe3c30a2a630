"""Agents that nobody launches: a service of each host runs them, and the coordinator comes and goes."""

import os
import signal
import subprocess

import pytest

from tests.hosts.running import STOP_SECONDS, agent_of, cluster_of, eventually, hostfile, left_over, stageline

pytestmark = pytest.mark.timeout(120)

CONTROL = "7000"
SILENCE = 2.0


@pytest.fixture
def agents(room, keys):
    """One on each host, as `deploy/` starts them; they find the desk by its name."""
    hostfile(room, room.hosts.values())
    processes = []
    for host in room.hosts.values():
        words = stageline("agent", "run", "--stay", "--coordinator", f"tcp://desk:{CONTROL}", "--name", host.name)
        with (host.folder / "agent.log").open("w") as log:
            processes.append(subprocess.Popen(host.entered(*words), stdin=subprocess.DEVNULL, stdout=log, stderr=log))
    yield {host.name: eventually(lambda host=host: agent_of(host), 10) for host in room.hosts.values()}
    for host in room.hosts.values():
        if (agent := agent_of(host)) is not None:
            os.kill(agent, signal.SIGTERM)
    for process in processes:
        process.wait(timeout=STOP_SECONDS)


def test_agents_stay_while_coordinators_come_and_go(room, agents, model):
    room.desk.write("cluster.toml", f"heartbeat_timeout = {SILENCE}\n")
    address = f"{room.desk.address}:{CONTROL}"
    words = ("--hosts", "hosts.json", "--no-launch", "--control", address, "--config", "cluster.toml")
    answers = []
    for stop in (signal.SIGKILL, signal.SIGINT):
        with cluster_of(room, str(model), *words) as cluster:
            answers.append(cluster.complete("hello", 8, ignore_eos=True))
            os.kill(cluster.pid, stop)
            cluster.process.wait(timeout=STOP_SECONDS)
        eventually(lambda: not workers(room), 5 * SILENCE, lambda: str(workers(room)))
        assert {name: agent_of(host) for name, host in room.hosts.items()} == agents
    assert answers[0] == answers[1]


def workers(room):
    return [command for commands in left_over(room).values() for command in commands if "worker.cli" in command]
