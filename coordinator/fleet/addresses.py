"""Addresses of this machine."""

import ipaddress
import socket

from worker.errors import ConfigError

DISCARD = 9  # a port; nothing is sent to it


def address_towards(ip: str) -> str:
    """This machine's address on the way to `ip`. Raises ConfigError if there is no way."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((ip, DISCARD))
        except OSError as error:
            raise ConfigError(
                f"there is no route to {ip} from here: {error.strerror}; check the address and the network",
                param="hosts",
            ) from error
        return probe.getsockname()[0]


def is_loopback(ip: str) -> bool:
    """Whether only this machine reaches it."""
    return ipaddress.ip_address(ip).is_loopback
