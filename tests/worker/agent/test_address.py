"""Which coordinators can be named, and how they are looked up."""

import socket
from typing import Any

import pytest

from worker.agent.address import own_address, parse_tcp


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("tcp://10.0.0.1:4700", "10.0.0.1", 4700),
        ("tcp://studio-1.local:1", "studio-1.local", 1),
        ("tcp://leader_0.a.b.:65535", "leader_0.a.b.", 65535),
        ("tcp://[::1]:4700", "::1", 4700),
        ("tcp://[fe80::1%en0]:4700", "fe80::1%en0", 4700),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    assert parse_tcp(text) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.1:4700",
        "ipc://10.0.0.1:4700",
        "tcp://10.0.0.1",
        "tcp://10.0.0.1:0",
        "tcp://10.0.0.1:65536",
        "tcp://10.0.0.1:4700/",
        "tcp://10.0.0.1:4700?a=b",
        "tcp://10.0.0.1:4700#a",
        "tcp://10.0.0.1:4700\n",
        "tcp://10.0.0.1\n:4700",
        "tcp://ada@10.0.0.1:4700",
        "tcp://10.0.0.256:4700",
        "tcp://10.1:4700",
        "tcp://::1:4700",
        "tcp://[10.0.0.1]:4700",
        "tcp://[::g]:4700",
        "tcp://a..b:4700",
        "tcp://-a:4700",
        "tcp://*:4700",
        f"tcp://{'a' * 64}:4700",
        "tcp://10.0.0.1;10.0.0.2:4700",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_tcp(text)


def test_a_name_is_looked_up_as_zeromq_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may put its IPv6 address first, at which ZeroMQ would not find the coordinator."""

    def lookup(_host: str, port: int, family: int = 0, **_: Any) -> list[Any]:
        six = (socket.AF_INET6, socket.SOCK_DGRAM, 0, "", ("::1", port))
        four = (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("127.0.0.1", port))
        return [each for each in (six, four) if family in (0, each[0])]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    assert own_address(parse_tcp("tcp://desk:4700")) == "127.0.0.1"
