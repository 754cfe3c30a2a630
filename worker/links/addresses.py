"""IP addresses, and names where they may stand for one: whose they are, and how they are written with a port."""

import ipaddress
import socket

DISCARD = 9  # a port; nothing is sent to it
EHOSTUNREACH_MACOS = 65  # also what a program without the Local Network permission gets for an address beside it


def is_loopback(host: str) -> bool:
    """Whether `host`, an address or a name, is this machine for certain and for nobody else."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def split(text: str) -> tuple[str, int]:
    """The parts of IP:PORT or [IP]:PORT. Raises ValueError for anything else."""
    ip, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ValueError(f"{port!r} is no port")
    return str(ipaddress.ip_address(ip.strip("[]"))), int(port)


def family_of(host: str) -> socket.AddressFamily:
    """How `host` is dialled: ZeroMQ looks names up for IPv4 alone, so whoever dials the same one does too."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def towards(host: str, port: int = DISCARD) -> str:
    """This machine's IP address on the way to `host`, an address or a name. Raises OSError if there is no way now."""
    family, _, _, _, where = socket.getaddrinfo(host, port, family=family_of(host), type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect(where)
        return probe.getsockname()[0]
