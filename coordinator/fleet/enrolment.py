"""Makes the hosts of a hostfile known to this machine and this machine to them, over ssh."""

import asyncio
import sys
from collections.abc import Sequence

from coordinator.fleet.hostfile import Host, Hostfile
from coordinator.fleet.ssh import failure, run_on
from worker.errors import ConfigError
from worker.links.keyring import Keyring, is_key

SECONDS = 30.0


async def enrol(hostfile: Hostfile, keyring: Keyring, *, python: str | None, keys: str | None) -> list[str]:
    """Every host gets a pair of keys if it has none, learns this machine's public key, and is put on the list here;
    returns their names. `python` and `keys` are those on the hosts, None for the usual ones.

    Hosts that can be reached are done even if others cannot. Raises ConfigError: a line for every host that could not
    be done, with its fix.
    """
    own = keyring.public
    answers = await asyncio.gather(
        *(_introduce(host, hostfile.envs, own, python or sys.executable, keys) for host in hostfile.hosts),
        return_exceptions=True,
    )
    names: list[str] = []
    problems: list[str] = []
    for host, answer in zip(hostfile.hosts, answers, strict=True):
        try:
            if isinstance(answer, BaseException):
                raise answer
            keyring.add(host.name, answer)
            names.append(host.name)
        except ConfigError as error:
            problems.append(error.message)
    if problems:
        done = f" ({', '.join(names)} done)" if names else ""
        raise ConfigError("; ".join(problems) + done, param="hosts")
    return names


async def _introduce(host: Host, envs: Sequence[str], own: str, python: str, keys: str | None) -> str:
    """Tell the host this machine's key; returns its own."""
    where = ["--keys", keys] if keys is not None else []
    command = [python, "-P", "-m", "coordinator.cli", "keys", "add", f"--coordinator={own}", *where]
    answer = await run_on(host, ["env", *envs, *command], seconds=SECONDS)
    public = answer.output.strip().rpartition("\n")[2]
    if answer.status != 0 or not is_key(public):
        raise ConfigError(f"host {host.name}: {failure(answer, python, '`stageline keys add`')}", param="hosts")
    return public
