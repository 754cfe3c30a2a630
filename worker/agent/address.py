"""Where the coordinator is, and which of this machine's addresses it is reached from."""

import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from worker.errors import ConfigError


class Endpoint(NamedTuple):
    """A TCP endpoint: an IP address or a name, and a port."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether it is on this machine for certain."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_tcp(text: str) -> Endpoint:
    """The parts of `tcp://HOST:PORT`. Raises ValueError for anything else."""
    parts = urlsplit(text)
    if parts.scheme != "tcp" or not parts.hostname or not parts.port or parts.path:
        raise ValueError(text)
    return Endpoint(parts.hostname, parts.port)


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
    family, _, _, _, where = socket.getaddrinfo(*coordinator, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, socket.SOCK_DGRAM) as probe:  # nothing is sent
        probe.connect(where)
        return probe.getsockname()[0]


def check_address(text: str) -> str:
    """An IP address that this machine has. Raises ConfigError."""
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(text).version == 6 else socket.AF_INET
    except ValueError as error:
        raise ConfigError(f"--address {text!r} is not an IP address", param="address") from error
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((text, 0))
        except OSError as error:
            raise ConfigError(
                f"--address {text}: this machine does not have it ({error.strerror}); without the option it is the "
                "one on the way to the coordinator",
                param="address",
            ) from error
    return text
