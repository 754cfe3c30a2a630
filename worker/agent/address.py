"""Where the coordinator is, and which of this machine's addresses it is reached from."""

import ipaddress
import re
import socket
from typing import NamedTuple

from worker.errors import ConfigError
from worker.links.addresses import family_of, is_loopback, towards

TCP = re.compile(r"tcp://(?:\[([0-9A-Za-z:.%_-]+)\]|([0-9A-Za-z._-]+)):([0-9]{1,5})")
LABEL = re.compile(r"[0-9A-Za-z_](?:[0-9A-Za-z_-]{0,61}[0-9A-Za-z_])?")
LONGEST_NAME = 253


class Endpoint(NamedTuple):
    """A TCP endpoint: an IP address or a name, and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine for certain."""
        return is_loopback(self.host)


def parse_tcp(text: str) -> Endpoint:
    """The parts of `tcp://HOST:PORT`, HOST being a name, an IPv4 address, or an IPv6 address in brackets. Raises
    ValueError for anything else."""
    parts = TCP.fullmatch(text)
    if parts is None or not 0 < int(parts[3]) < 1 << 16:
        raise ValueError(text)
    six, host, port = parts.groups()
    if six:
        ipaddress.IPv6Address(six)
    elif host.rpartition(".")[2].isdecimal():
        ipaddress.IPv4Address(host)
    elif len(host) > LONGEST_NAME or not all(map(LABEL.fullmatch, host.removesuffix(".").split("."))):
        raise ValueError(text)
    return Endpoint(six or host, int(port))


def parse_coordinator(text: str) -> Endpoint:
    """The same for an option. Raises ConfigError."""
    try:
        return parse_tcp(text)
    except ValueError as error:
        raise ConfigError(
            f"--coordinator {text!r}: expected tcp://ADDRESS:PORT, as in tcp://10.0.0.1:4700", param="coordinator"
        ) from error


def own_address(coordinator: Endpoint) -> str:
    """This machine's IP address on the way to the coordinator. Raises OSError if there is no way now."""
    return towards(*coordinator)


def check_address(text: str) -> str:
    """An IP address that this machine has. Raises ConfigError."""
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise ConfigError(f"--address {text!r} is not an IP address", param="address") from error
    with socket.socket(family_of(text), socket.SOCK_STREAM) as probe:
        try:
            probe.bind((text, 0))
        except OSError as error:
            raise ConfigError(
                f"--address {text}: this machine does not have it ({error.strerror}); without the option it is the "
                "one on the way to the coordinator",
                param="address",
            ) from error
    return text
