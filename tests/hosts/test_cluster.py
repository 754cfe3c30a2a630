"""A cluster over three hosts, each with an address, an sshd and a user of its own: it starts, answers, loses an agent
and a host, and leaves nothing behind."""

import os
import re
import signal
import time
from collections import Counter
from contextlib import contextmanager

import httpx
import pytest
import zmq

from tests.cluster.running import events, running
from tests.hosts.running import STOP_SECONDS, agent_of, cluster_of, eventually, hostfile, left_over

pytestmark = pytest.mark.timeout(120)  # an agent and a stage with MLX on each of three hosts, on two cores

PROMPT, TOKENS = "once upon a time", 24
LONG = {"prompt": PROMPT, "max_tokens": 4000, "temperature": 0, "ignore_eos": True, "stream": True}
SILENCE = 7.0  # seconds until a host is taken for lost; a lost link is noticed earlier
DELAY = 0.020
BACK_SECONDS = 30
DOORS = 2  # on each host: the agent's echo and the stage's input


@pytest.fixture(scope="module")
def expected(model):
    """The answer of one stage on one machine."""
    with running(model, stages=1) as cluster:
        return cluster.complete(PROMPT, TOKENS, ignore_eos=True)


@pytest.fixture(scope="module")
def settings(room, keys):
    """The last file that is written before the cluster starts."""
    room.desk.write("cluster.toml", f"heartbeat_timeout = {SILENCE}\n")
    hostfile(room, room.hosts.values())
    return {name: machine.files() for name, machine in room.machines.items()}


@pytest.fixture(scope="module")
def cluster(room, model, settings, expected):
    with cluster_of(room, str(model), "--hosts", "hosts.json", "--config", "cluster.toml") as cluster:
        yield cluster


@pytest.fixture
def ready(cluster):
    cluster.wait_until_ready(BACK_SECONDS)
    return cluster


@contextmanager
def streaming(cluster):
    """The events of a long answer that has begun."""
    with cluster.client.stream("POST", f"{cluster.url}/v1/completions", json=LONG) as response:
        stream = events(response)
        for _ in range(3):
            assert next(stream)[0] == "message"
        yield stream


def hosts_of(cluster):
    return [stage["host"] for stage in cluster.cluster()["stages"]]


def test_stages_are_on_all_hosts_and_answer_as_one_machine_does(ready, room, expected):
    assert sorted(hosts_of(ready)) == sorted(room.hosts)
    for host in room.hosts.values():
        assert any("worker.cli" in command for _, command in host.processes())
    assert ready.complete(PROMPT, TOKENS, ignore_eos=True) == expected


def test_what_listens_on_the_network_lets_no_stranger_in(ready, room):
    plain_http = {stage["metrics"] for stage in ready.cluster()["stages"]}
    found = [(machine, at) for machine in room.machines.values() for at in listening(machine)]
    assert plain_http < {at for _, at in found}
    doors = [(machine, f"tcp://{at}") for machine, at in found if at not in plain_http]
    assert len(doors) == DOORS * len(room.hosts) + 1  # and the coordinator's
    before = turned_away(ready)
    with zmq.Context() as context:
        known = {door: monitored(context, door, server=public_key(machine)) for machine, door in doors}
        plain = {door: monitored(context, door) for _, door in doors}
        time.sleep(1)
        let_in = [door for each in (known, plain) for door, (_, monitor) in each.items() if monitor.poll(0)]
        context.destroy(linger=0)
    assert not let_in
    # one without a key and one with an unknown one, at the coordinator and at every stage; echoes tell nobody
    grown = lambda: all(now >= then + 2 for now, then in zip(turned_away(ready), before, strict=True))  # noqa: E731
    eventually(grown, 5, lambda: f"{before} before, {turned_away(ready)} now")


def turned_away(cluster):
    """Connections that were refused: by the coordinator, and by each stage."""
    view = cluster.cluster()
    return [sum(view["refused"].values()), *(stage["refused"] for stage in view["stages"])]


def listening(machine):
    """Addresses where it waits for connections from other machines, but for ssh."""
    found = [line.split()[3] for line in machine.run("ss", "-Hltn").splitlines()]
    return [at for at in found if not at.startswith("127.") and not at.endswith(":22")]


def public_key(machine):
    return zmq.curve_public((machine.home / ".config/stageline/keys/secret").read_bytes().strip())


def monitored(context, door, server=None):
    """A client without a key, or with a new one for this server's, and what tells whether it was let in."""
    stranger = context.socket(zmq.DEALER)
    if server is not None:
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_serverkey = server
    monitor = stranger.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    stranger.connect(door)
    return stranger, monitor


def test_a_delayed_link_shows_in_the_metrics_of_its_hop_alone(ready, room):
    _, second, third = hosts_of(ready)
    with room.delayed(second, third, DELAY):
        ready.complete(PROMPT, 8, ignore_eos=True)  # what was on its way when the cable was changed is sent again
        before = hops(ready)
        ready.complete(PROMPT, 100, ignore_eos=True)
        after = hops(ready)
    first, slow, last = (median(after[stage] - before[stage]) for stage in range(3))
    assert DELAY <= slow < 2 * DELAY
    assert max(first, last) < DELAY


def hops(cluster):
    """For each stage how many of its hops took how long: a count for each bucket of the histogram."""
    found = []
    for stage in cluster.cluster()["stages"]:
        text = httpx.get(f"http://{stage['metrics']}/metrics", trust_env=False).text
        buckets = re.findall(r'^stageline_stage_hop_seconds_bucket\{le="([^"]+)".*\} (\S+)$', text, re.MULTILINE)
        found.append(Counter({float(upper): float(count) for upper, count in buckets}))
    return found


def median(buckets):
    """The smallest bound that half of the hops are below; bounds count all that is below them."""
    assert max(buckets.values()) >= 3, "too few hops were measured"
    return min(upper for upper, count in buckets.items() if count >= max(buckets.values()) / 2)


def test_a_killed_agent_ends_the_stream_with_an_error_and_comes_back(ready, room, expected):
    name = hosts_of(ready)[1]
    with streaming(ready) as stream:
        victim = agent_of(room.hosts[name])
        os.kill(victim, signal.SIGKILL)
        kind, data = list(stream)[-1]
    assert kind == "error"
    assert "stage 1" in data["error"]["message"]
    unready = ready.get("/ready")
    assert unready.status_code == 503
    assert "stage 1" in unready.text
    assert name in unready.text
    ready.wait_until_ready(BACK_SECONDS)
    assert agent_of(room.hosts[name]) not in (None, victim)
    assert ready.complete(PROMPT, TOKENS, ignore_eos=True) == expected


@pytest.mark.parametrize("noticed", ["link", "host"])
def test_a_host_cut_off_until_its_loss_is_noticed_ends_the_stream_and_comes_back(ready, room, expected, noticed):
    name = hosts_of(ready)[2]
    with streaming(ready) as stream, room.unplugged(name):
        began = time.monotonic()
        kind, data = list(stream)[-1]
        assert time.monotonic() - began < 15
        assert kind == "error"
        assert "stage " in data["error"]["message"]
        unready = ready.get("/ready")
        assert unready.status_code == 503
        assert name in unready.text
        refused = ready.post("/v1/completions", prompt="x", max_tokens=1)
        assert refused.status_code == 503, refused.text
        if noticed == "host":
            eventually(lambda: "no sign of life" in ready.get("/ready").text, 3 * SILENCE, lambda: ready.log)
    ready.wait_until_ready(BACK_SECONDS)
    assert sorted(hosts_of(ready)) == sorted(room.hosts)
    assert ready.complete(PROMPT, TOKENS, ignore_eos=True) == expected


def test_ctrl_c_at_the_desk_leaves_nothing_on_any_host(ready, room, settings):
    with streaming(ready) as stream:
        os.kill(ready.pid, signal.SIGINT)
        assert list(stream)[-1][0] == "error"
    assert ready.process.wait(timeout=STOP_SECONDS) == 0, ready.log
    eventually(lambda: not left_over(room), 5, lambda: str(left_over(room)))
    new = {name: machine.files() - settings[name] for name, machine in room.machines.items()}
    assert not any(new.values()), new
