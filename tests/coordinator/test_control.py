"""The control socket: who is heard by whom, on one machine and, with keys, on several."""

import asyncio
import time

import pytest
import zmq

from coordinator.control import Control
from tests.worker.agent import playing
from worker.agent.messages import Beat, Leave, ToAgent
from worker.links.gate import Gate
from worker.links.keyring import Keyring
from worker.links.wire import decode, encode
from worker.protocol import Linked, Stop, ToWorker

HERE = "tcp://127.0.0.1:*"
WAIT_SECONDS = 10.0


class Heard:
    """A control and what it handed on."""

    def __init__(self, keyring=None):
        self.messages = []
        self.control = Control(
            receive=lambda *event: self.messages.append(event),
            hear=lambda *event: self.messages.append(event),
            keyring=keyring,
        )

    async def until(self, condition):
        deadline = time.monotonic() + WAIT_SECONDS
        while not condition(self):
            assert time.monotonic() < deadline
            await asyncio.sleep(0.005)


class Peer:
    """A socket that dials, as a worker or an agent does."""

    def __init__(self, endpoint, identity, keyring=None, server=None):
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.ROUTING_ID, identity.encode())
        self.socket.setsockopt(zmq.LINGER, 0)
        if keyring is not None:
            Gate(self.context, keyring).present(self.socket, server.public)
        self.socket.connect(endpoint)

    def send(self, message):
        self.socket.send(encode(message))

    async def receive(self, kind):
        return decode(await asyncio.to_thread(self.socket.recv), kind)

    def close(self):
        self.socket.close()
        self.context.term()


def made(directory):
    keyring = Keyring(directory)
    keyring.new()
    return keyring


@pytest.fixture
def hosts(tmp_path):
    """Keys of the coordinator, and of studio-1 and studio-2 that it lets in."""
    coordinator, *studios = (made(tmp_path / name) for name in ("coordinator", "studio-1", "studio-2"))
    for number, studio in enumerate(studios, 1):
        coordinator.add(f"studio-{number}", studio.public)
    return coordinator, *studios


def test_workers_and_agents_are_told_apart_on_every_endpoint(tmp_path):
    async def main():
        heard = Heard()
        endpoints = [
            heard.control.bind(f"ipc://{tmp_path}/control"),
            heard.control.bind(HERE),
            heard.control.bind(HERE),
        ]
        assert endpoints[0] == f"ipc://{tmp_path}/control"
        assert endpoints[1] != endpoints[2]
        names = ("stage-0/one", "pulse-1/two", "agent-studio-1/three")
        peers = [Peer(endpoint, name) for endpoint, name in zip(endpoints, names, strict=True)]
        for peer, message in zip(peers, (Linked(epoch=1), Linked(epoch=2), Beat(number=3)), strict=True):
            peer.send(message)
        await heard.until(lambda heard: len(heard.messages) == 3)
        assert sorted(heard.messages, key=str) == [
            ("studio-1", "three", Beat(number=3)),
            (0, "one", Linked(epoch=1)),
            (1, "two", Linked(epoch=2)),
        ]
        heard.control.send(0, "one", Stop())
        heard.control.tell("studio-1", "three", Beat(number=3))
        heard.control.send(7, "gone", Stop())  # nobody is called that
        assert await peers[0].receive(ToWorker) == Stop()
        assert await peers[2].receive(ToAgent) == Beat(number=3)
        assert heard.control.refused.total() == 0
        for peer in peers:
            peer.close()
        heard.control.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("stage-x/one", Linked(epoch=1)),
        ("stage-1", Linked(epoch=1)),
        ("nobody-1/one", Linked(epoch=1)),
        ("stage-1/one", Beat(number=1)),
        ("agent-studio-1/one", Linked(epoch=1)),
    ],
    ids=["no number", "no session", "nobody", "a worker as an agent", "an agent as a worker"],
)
def test_what_nobody_of_the_cluster_says_is_dropped(identity, message, caplog):
    async def main():
        heard = Heard()
        endpoint = heard.control.bind(HERE)
        peers = Peer(endpoint, identity), Peer(endpoint, "stage-0/good")
        peers[0].send(message)
        await heard.until(lambda _: any("dropped a message" in line for line in caplog.messages))
        peers[1].send(Linked(epoch=1))
        await heard.until(lambda heard: heard.messages)
        assert heard.messages == [(0, "good", Linked(epoch=1))]
        for peer in peers:
            peer.close()
        heard.control.close()

    asyncio.run(main())


def test_an_agent_speaks_for_its_own_name_alone(hosts, caplog):
    async def main():
        coordinator, studio_1, studio_2 = hosts
        heard = Heard(coordinator)
        endpoint = heard.control.bind(HERE)
        thief = Peer(endpoint, "agent-studio-1/thief", studio_2, coordinator)
        thief.send(Beat(number=1))
        await heard.until(lambda heard: heard.control.refused["wrong_name"])
        told = await thief.receive(ToAgent)
        assert isinstance(told, Leave)
        assert (
            "knows this host's key as that of studio-2, not of studio-1: start the agent with --name studio-2"
            in told.reason
        )
        true = Peer(endpoint, "agent-studio-1/true", studio_1, coordinator)
        worker = Peer(endpoint, "stage-0/one", studio_2, coordinator)
        true.send(Beat(number=2))
        worker.send(Linked(epoch=1))
        await heard.until(lambda heard: len(heard.messages) == 2)
        assert sorted(heard.messages, key=str) == [("studio-1", "true", Beat(number=2)), (0, "one", Linked(epoch=1))]
        assert "control: refused 127.0.0.1: it speaks for 'studio-1' with the key of studio-2" in caplog.messages
        for peer in (thief, true, worker):
            peer.close()
        heard.control.close()

    asyncio.run(main())


def test_an_agent_with_the_key_of_another_host_says_so(hosts):
    """Once, and not at every try; one that need not stay leaves."""

    async def main():
        coordinator, _, studio_2 = hosts
        studio_2.trust(coordinator.public)
        heard = Heard(coordinator)
        endpoint = heard.control.bind(HERE)
        words = (endpoint, "--keys", str(studio_2.directory))
        with (
            playing.agent(*words, "--stay", name="studio-1", insecure=False) as stays,
            playing.agent(*words, name="studio-3", insecure=False) as leaves,
        ):
            said = "the coordinator knows this host's key as that of studio-2, not of"
            assert await asyncio.to_thread(leaves.ends) == 0
            assert f"leaving: {said} studio-3" in leaves.log
            await heard.until(lambda heard: heard.control.refused["wrong_name"] > 3)  # one of them left
            assert stays.log.count(said) == 1
        heard.control.close()

    asyncio.run(main())


def test_a_revoked_host_is_not_heard_any_more(hosts, caplog):
    """Neither its agent nor its workers, though their connections stand."""

    async def main():
        coordinator, studio_1, studio_2 = hosts
        heard = Heard(coordinator)
        endpoint = heard.control.bind(HERE)
        peers = [
            Peer(endpoint, "agent-studio-1/one", studio_1, coordinator),
            Peer(endpoint, "stage-1/one", studio_1, coordinator),
            Peer(endpoint, "stage-2/one", studio_2, coordinator),
        ]
        for peer, message in zip(peers, (Beat(number=1), Linked(epoch=1), Linked(epoch=1)), strict=True):
            peer.send(message)
        await heard.until(lambda heard: len(heard.messages) == 3)
        heard.messages.clear()
        Keyring(coordinator.directory).revoke("studio-1")
        for peer, message in zip(peers, (Beat(number=2), Linked(epoch=2), Linked(epoch=2)), strict=True):
            peer.send(message)
        await heard.until(lambda heard: heard.messages and heard.control.refused["unknown_key"] == 2)
        assert heard.messages == [(2, "one", Linked(epoch=2))]
        assert "control: refused 127.0.0.1: its key was revoked" in caplog.messages
        for peer in peers:
            peer.close()
        heard.control.close()

    asyncio.run(main())


def test_a_stranger_is_refused_and_counted(hosts, tmp_path):
    async def main():
        coordinator, *_ = hosts
        heard = Heard(coordinator)
        peer = Peer(heard.control.bind(HERE), "agent-studio-1/one", made(tmp_path / "stranger"), coordinator)
        peer.send(Beat(number=1))
        await heard.until(lambda heard: heard.control.refused["unknown_key"])
        assert heard.messages == []
        peer.close()
        heard.control.close()

    asyncio.run(main())
