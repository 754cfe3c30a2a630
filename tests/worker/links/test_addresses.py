"""Addresses: whose they are, how they are written with a port, and which one leads somewhere."""

import pytest

from worker.links.addresses import is_loopback, split, towards


@pytest.mark.parametrize(
    ("host", "here"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")),
        *((host, False) for host in ("10.0.0.1", "0.0.0.0", "::", "localhost.example.org", "")),
    ],
)
def test_loopback(host, here):
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    ("text", "parts"), [("10.0.0.1:7000", ("10.0.0.1", 7000)), ("[fd00::1]:0", ("fd00::1", 0))], ids=["4", "6"]
)
def test_an_address_and_a_port(text, parts):
    assert split(text) == parts


@pytest.mark.parametrize("text", ["", "10.0.0.1", "10.0.0.1:", "10.0.0.1:65536", "10.0.0.1:-1", "10.0.0.1:8_0"])
def test_what_has_no_port(text):
    with pytest.raises(ValueError, match="is no port"):
        split(text)


@pytest.mark.parametrize("text", ["desk:1", ":1", "10.0.0:1"])
def test_what_has_no_address(text):
    with pytest.raises(ValueError, match="IPv4 or IPv6 address"):
        split(text)


def test_the_own_address_on_the_way():
    assert towards("127.0.0.2") == "127.0.0.1"
    assert towards("localhost", 80) in ("127.0.0.1", "::1")
