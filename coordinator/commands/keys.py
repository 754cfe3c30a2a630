"""`stageline keys`: who may take part in a cluster over several hosts."""

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from coordinator.fleet.enrolment import enrol
from coordinator.fleet.hostfile import read_hostfile
from worker.errors import ConfigError
from worker.links.keyring import Keyring

Command = TypeVar("Command", bound=Callable[..., Any])


def _directory(command: Command) -> Command:
    return click.option(
        "--keys",
        "directory",
        metavar="DIR",
        help="Directory of keys; else STAGELINE_KEYS, else ~/.config/stageline/keys.",
    )(command)


@click.group()
def keys() -> None:
    """Make and exchange the keys of a cluster's hosts.

    Each host has a pair of keys. The coordinator's host knows the public keys of the others, and they know its own:
    `stageline keys add --hosts hosts.json` sees to all of it over ssh. By hand: `new` on the coordinator's host, `add
    --coordinator KEY` on every other one, and `add NAME KEY` on the coordinator's with what that printed.
    """


@keys.command()
@_directory
@click.option("--replace", is_flag=True, help="Even if there are keys; the old ones are worth nothing then.")
def new(directory: str | None, replace: bool) -> None:
    """Make this host's pair of keys and print the public one."""
    keyring = Keyring.at(directory)
    if keyring.has_pair and not replace:
        raise ConfigError(
            f"this host has keys in {keyring.directory}: `stageline keys list` shows them, --replace makes new ones, "
            "which the other hosts have to be told of"
        )
    keyring.new()
    click.echo(keyring.public)


@keys.command()
@click.argument("name", required=False)
@click.argument("key", required=False)
@click.option("--coordinator", metavar="KEY", help="Public key of the coordinator's host, told to this one.")
@click.option("--hosts", metavar="FILE", help="Hostfile: do all that is needed on all of its hosts, over ssh.")
@click.option("--python", metavar="PATH", help="Python with stageline on those hosts; else the path of this one.")
@_directory
def add(
    name: str | None,
    key: str | None,
    coordinator: str | None,
    hosts: str | None,
    python: str | None,
    directory: str | None,
) -> None:
    """Let the host NAME with the public key KEY take part.

    NAME is its name in the hostfile: `ssh` without the user. A host that is known gets the new key.
    """
    keyring = Keyring.at(directory)
    if [name is not None, coordinator is not None, hosts is not None].count(True) != 1 or (name and not key):
        raise click.UsageError("give NAME and KEY, or --coordinator KEY, or --hosts FILE")
    if python is not None and hosts is None:
        raise click.UsageError("--python goes with --hosts")
    if name is not None and key is not None:
        keyring.add(name, key)
        click.echo(f"{name} may take part")
        return
    hostfile = read_hostfile(Path(hosts), addressed=False) if hosts is not None else None
    if not keyring.has_pair:
        keyring.new()
    if hostfile is not None:
        for done in asyncio.run(enrol(hostfile, keyring, python=python, keys=directory)):
            click.echo(f"{done} may take part")
    elif coordinator is not None:
        own = keyring.public  # if it cannot be read, nothing is changed
        keyring.trust(coordinator)
        click.echo(f"now, on the coordinator's host: stageline keys add NAME {shlex.quote(own)}", err=True)
        click.echo(own)


@keys.command("list")
@_directory
def show(directory: str | None) -> None:
    """Show the public keys that are known here, and this host's own."""
    keyring = Keyring.at(directory)
    names = keyring.names()
    width = max(len(name) for name in (*names, "(coordinator)"))
    if not keyring.has_pair:
        click.echo(f"no keys of its own in {keyring.directory}: `stageline keys new` makes them", err=True)
    else:
        click.echo(f"{'(own)':<{width}}  {keyring.public}")
    if keyring.knows_coordinator:
        click.echo(f"{'(coordinator)':<{width}}  {keyring.coordinator}")
    for name in names:
        click.echo(f"{name:<{width}}  {keyring.key_of(name)}")


@keys.command()
@click.argument("name")
@_directory
def revoke(name: str, directory: str | None) -> None:
    """Shut the host NAME out.

    New connections are refused at once. In a cluster that runs, nothing that the host says is heard any more: it counts
    as lost after `heartbeat_timeout`.
    """
    Keyring.at(directory).revoke(name)
    click.echo(f"{name} may not take part any more")
