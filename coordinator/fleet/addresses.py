"""Addresses of this machine."""

from worker.errors import ConfigError
from worker.links.addresses import towards


def address_towards(ip: str) -> str:
    """This machine's address on the way to `ip`. Raises ConfigError if there is no way."""
    try:
        return towards(ip)
    except OSError as error:
        raise ConfigError(
            f"there is no route to {ip} from here: {error.strerror}; check the address and the network",
            param="hosts",
        ) from error
