"""Agents in a cluster with keys: who is let in, and what is said to whoever is not."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import zmq

from tests.worker.agent import playing
from worker.agent.messages import Hail, Leave, Peer, Start, Survey, Surveyed
from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.protocol import Hello

NewKeyring = Callable[[str], Keyring]


@pytest.fixture
def keyring(tmp_path: Path) -> NewKeyring:
    def make(name: str) -> Keyring:
        made = Keyring(tmp_path / name)
        made.new()
        return made

    return make


@pytest.fixture
def stack() -> Any:
    with ExitStack() as stack:
        yield stack


def pong(keys: Keyring | None, echo: str, server: str) -> bool:
    """Whether the echo answers somebody with these keys."""
    with zmq.Context() as context:
        gate = Gate(context, keys) if keys else None
        with context.socket(zmq.DEALER) as socket:
            socket.setsockopt(zmq.LINGER, 0)
            if gate is not None:
                gate.present(socket, server)
            socket.connect(echo)
            socket.send(b"ping")
            answered = bool(socket.poll(700))
        if gate is not None:
            gate.close()
    return answered


def test_hosts_with_keys_measure_the_way_to_each_other(keyring: NewKeyring, stack: ExitStack) -> None:
    """And nobody else can: neither somebody without a key nor the coordinator's other friends."""
    ours, stranger = keyring("coordinator"), keyring("stranger")
    hosts = {name: keyring(name) for name in ("one", "two")}
    ours.add("stranger", stranger.public)
    for name, keys in hosts.items():
        ours.add(name, keys.public)
        keys.trust(ours.public)
    coordinator = stack.enter_context(playing.coordinator(ours))
    hails: dict[str, Hail] = {}
    sessions: dict[str, str] = {}
    for name, keys in hosts.items():
        words = ("--keys", str(keys.directory))
        stack.enter_context(playing.agent(coordinator.endpoint, *words, name=name, insecure=False))
    while len(hails) < 2:
        who, hail = coordinator.hear(Hail)
        hails[hail.name], sessions[hail.name] = hail, who
    for name in hosts:
        other = next(each for each in hosts if each != name)
        peer = Peer(name=other, echo=hails[other].echo, key=hosts[other].public)
        coordinator.say(sessions[name], Survey(model="", peers=(peer,), silence=5))
        time.sleep(0.7)  # the first one is refused by the second until that is surveyed too
    for _ in hosts:
        (trip,) = coordinator.hear(Surveyed)[1].round_trips
        assert trip.problem == ""
        assert 0 < trip.seconds < 0.2
    for keys, answered in ((hosts["one"], True), (stranger, False), (None, False)):
        assert pong(keys, hails["two"].echo, hosts["two"].public) is answered


def test_workers_get_the_keys(keyring: NewKeyring, stack: ExitStack) -> None:
    ours, keys = keyring("coordinator"), keyring("here")
    ours.add("here", keys.public)
    keys.trust(ours.public)
    coordinator = stack.enter_context(playing.coordinator(ours))
    words = ("--keys", str(keys.directory))
    agent = stack.enter_context(playing.agent(coordinator.endpoint, *words, insecure=False))
    who, _, _ = coordinator.surveyed()
    coordinator.say(who, Start(stage=0, stages=1, session="first"))
    assert coordinator.hear(Hello)[0] == "stage-0/first"
    coordinator.say(who, Leave(reason="the cluster ends"))
    assert agent.ends() == 0


def test_an_unknown_key_is_told_and_let_in_once_it_is_known(keyring: NewKeyring, stack: ExitStack) -> None:
    ours, keys = keyring("coordinator"), keyring("here")
    keys.trust(ours.public)
    coordinator = stack.enter_context(playing.coordinator(ours))
    words = ("--keys", str(keys.directory), "--stay")
    agent = stack.enter_context(playing.agent(coordinator.endpoint, *words, insecure=False))
    agent.says(f"does not know this host's key: run there `stageline keys add here '{keys.public}'`")
    time.sleep(2.5)
    assert agent.log.count("does not know") == 1  # and not at every try
    ours.add("here", keys.public)
    assert coordinator.hear(Hail)[1].name == "here"


@pytest.mark.parametrize(
    ("with_keys", "server_has_keys", "said"),
    [
        (True, True, "hangs up: its key is not the one in"),
        (False, True, "asks for keys: give --keys instead of --insecure"),
        (True, False, "uses no keys: start it with keys, or this agent with --insecure"),
    ],
    ids=["wrong key of the coordinator", "no keys here", "no keys there"],
)
def test_a_handshake_that_fails_is_explained(
    keyring: NewKeyring, stack: ExitStack, with_keys: bool, server_has_keys: bool, said: str
) -> None:
    ours, keys = keyring("coordinator"), keyring("here")
    ours.add("here", keys.public)
    keys.trust(keyring("another").public)
    coordinator = stack.enter_context(playing.coordinator(ours if server_has_keys else None))
    words = ("--keys", str(keys.directory)) if with_keys else ()
    agent = stack.enter_context(playing.agent(coordinator.endpoint, *words, insecure=not with_keys))
    assert agent.ends() == 2  # at once: waiting would not help
    assert f"stageline: error: the coordinator at {coordinator.endpoint} " in agent.log
    assert said in agent.log


def test_a_service_waits_for_better_keys(keyring: NewKeyring, stack: ExitStack) -> None:
    ours, keys = keyring("coordinator"), keyring("here")
    ours.add("here", keys.public)
    keys.trust(keyring("another").public)
    coordinator = stack.enter_context(playing.coordinator(ours))
    words = ("--keys", str(keys.directory), "--stay")
    agent = stack.enter_context(playing.agent(coordinator.endpoint, *words, insecure=False))
    agent.says("hangs up: its key is not the one in")
    keys.trust(ours.public)
    assert coordinator.hear(Hail)[1].name == "here"
    assert agent.log.count("ERROR") == 1
