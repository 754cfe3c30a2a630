"""mlx.launch's hostfile: the hosts of a cluster, how ssh reaches them, and their addresses.

    {"hosts": [{"ssh": "studio-1", "ips": ["10.0.0.1"]}, ...], "envs": ["NAME=value", ...]}

or the list of hosts alone. What else a host or the file says (`rdma`, `backend`) is for others.
"""

import ipaddress
import re
from pathlib import Path

import msgspec

from worker.errors import ConfigError
from worker.links.addresses import is_loopback

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^\0]*\Z")
LOCAL = "127.0.0.1"  # mlx.launch starts this one without ssh


class Host(msgspec.Struct, frozen=True):
    """A machine. `ssh` is what ssh is told, `user@name` or an alias of ~/.ssh/config; `ips` are its addresses, the one
    for the cluster first."""

    ssh: str
    ips: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What the cluster calls it: without the user."""
        return self.ssh.rpartition("@")[2]

    @property
    def is_local(self) -> bool:
        """Whether it is the machine of the coordinator."""
        return self.ssh == LOCAL


class Hostfile(msgspec.Struct, frozen=True):
    """The whole file; `envs` are NAME=value, for every agent and its workers."""

    hosts: tuple[Host, ...]
    envs: tuple[str, ...] = ()


def read_hostfile(path: Path, *, addressed: bool = True) -> Hostfile:
    """The hosts of a file. Raises ConfigError naming the file, the host, and the fix.

    Unless they are `addressed`, hosts may come without ips: agents that run already tell their own addresses.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"--hosts {path}: cannot be read: {error.strerror}", param="hosts") from error
    try:
        found = msgspec.json.decode(content, type=tuple[Host, ...] | Hostfile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _wrong(path, f'{error}; expected {{"hosts": [{{"ssh": "name", "ips": ["10.0.0.1"]}}, ...]}}') from error
    hostfile = found if isinstance(found, Hostfile) else Hostfile(found)
    if not hostfile.hosts:
        raise _wrong(path, "it names no host: list at least one")
    _check_names(path, hostfile.hosts)
    owners: dict[str, str] = {}
    for host in hostfile.hosts:
        _check_addresses(path, host, addressed)
        for ip in host.ips:
            if owners.setdefault(ip, host.name) != host.name:
                raise _wrong(path, f"{owners[ip]} and {host.name} both have the address {ip}: correct one of them")
    _check_reach(path, hostfile.hosts)
    for text in hostfile.envs:
        if not VARIABLE.match(text):
            name = text.partition("=")[0]
            raise _wrong(path, f"envs: {name!r} is not NAME=value: a name is of A to Z, a to z, 0 to 9 and _")
    return hostfile


def _check_names(path: Path, hosts: tuple[Host, ...]) -> None:
    seen: set[str] = set()
    for number, host in enumerate(hosts, 1):
        if not host.name or any(not 32 < ord(letter) < 127 or letter in "/\\" for letter in host.ssh):
            raise _wrong(path, f"host {number}: {host.ssh!r} is no name that ssh takes: give `user@name` or `name`")
        if host.ssh.startswith("-"):
            raise _wrong(path, f"host {number}: {host.ssh!r} would be an option to ssh: give its name")
        if host.name in seen:
            raise _wrong(path, f"{host.name} is there twice: name each host once; --stages sets the number of stages")
        seen.add(host.name)


def _check_addresses(path: Path, host: Host, addressed: bool) -> None:
    if addressed and not host.ips:
        raise _wrong(
            path,
            f'{host.name} has no ips: add "ips": ["ADDRESS"], the address at which the other hosts reach it '
            "(mlx.distributed_config writes them)",
        )
    for ip in host.ips:
        try:
            address = ipaddress.ip_address(ip)
        except ValueError as error:
            raise _wrong(path, f"{host.name}: {ip!r} is not an IP address") from error
        if address.is_unspecified or address.is_multicast:
            raise _wrong(path, f"{host.name}: {ip} is no address of one host: give the one at which others reach it")


def _check_reach(path: Path, hosts: tuple[Host, ...]) -> None:
    """One machine may play several hosts; hosts of several machines must not have an address that only one reaches."""
    alone = {ip: host for host in hosts for ip in host.ips if is_loopback(ip)}
    if alone and len(alone) < sum(len(host.ips) for host in hosts):
        ip, host = next(iter(alone.items()))
        raise _wrong(path, f"{host.name}: only that machine itself reaches {ip}: give one that others reach")


def _wrong(path: Path, what: str) -> ConfigError:
    return ConfigError(f"--hosts {path}: {what}", param="hosts")
