"""What an agent is told on its command line, checked."""

from pathlib import Path

import msgspec

from worker.agent.address import Endpoint, check_address, parse_coordinator
from worker.errors import ConfigError
from worker.links.addresses import is_loopback
from worker.links.keyring import NAME, Keyring


class AgentSettings(msgspec.Struct, frozen=True, kw_only=True):
    """`coordinator` is its control endpoint, `name` this host's in the hostfile.

    `address` None is the one on the way to the coordinator, `keys` None a cluster without keys. `stay`: go on when the
    coordinator is gone.
    """

    coordinator: str
    name: str
    address: str | None
    keys: Path | None
    stay: bool

    @property
    def endpoint(self) -> Endpoint:
        """Where the coordinator is."""
        return parse_coordinator(self.coordinator)

    @property
    def words(self) -> list[str]:
        """The command line that makes these settings."""
        address = ["--address", self.address] if self.address else []
        keys = ["--keys", str(self.keys)] if self.keys else ["--insecure"]
        stay = ["--stay"] if self.stay else []
        return ["--coordinator", self.coordinator, "--name", self.name, *address, *keys, *stay]


def agent_settings(
    *,
    coordinator: str,
    name: str,
    address: str | None,
    keys: Path | None,
    insecure: bool,
    stay: bool,
    own_keys: Path | None = None,
) -> AgentSettings:
    """The settings that options ask for.

    Without `keys` and `insecure` the user's own keys are taken, in `own_keys` if that is not who asks; nothing needs
    keys if no other machine can reach it: neither the coordinator nor this host's address. Raises ConfigError for what
    is malformed or contradicts itself.
    """
    where = parse_coordinator(coordinator)
    if not NAME.match(name):
        raise ConfigError(f"--name {name!r}: expected this host's name in the hostfile", param="name")
    if address is not None:
        check_address(address)
    if insecure and keys is not None:
        raise ConfigError("--keys and --insecure contradict each other: omit one", param="keys")
    local = where.is_loopback and (address is None or is_loopback(address))
    if keys is None and not insecure and not local:
        keys = own_keys or Keyring.at(None).directory
    return AgentSettings(
        coordinator=coordinator,
        name=name,
        address=address,
        keys=keys.expanduser().absolute() if keys else None,
        stay=stay,
    )


def check_keys(settings: AgentSettings) -> None:
    """Raises ConfigError, with the fix, if a key is missing."""
    if settings.keys is not None:
        keyring = Keyring(settings.keys)
        for key in (keyring.public, keyring.coordinator):
            assert key
