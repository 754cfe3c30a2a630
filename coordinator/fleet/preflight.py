"""Before anything is started on a host: does ssh get there, and is the same software there?"""

import asyncio
from collections.abc import Sequence

import msgspec

from coordinator.fleet.hostfile import Host, Hostfile
from coordinator.fleet.refused import HostsError
from coordinator.fleet.ssh import failure, run_on
from worker.errors import ConfigError
from worker.protocol import PROTOCOL_VERSION
from worker.versions import Installed, versions

SECONDS = 30.0


async def preflight(hostfile: Hostfile, python: str) -> None:
    """Looks at all hosts at once. Raises HostsError for those that cannot take part."""
    answers = await asyncio.gather(*(_ask(host, hostfile, python) for host in hostfile.hosts), return_exceptions=True)
    problems: dict[str, str] = {}
    for host, answer in zip(hostfile.hosts, answers, strict=True):
        if isinstance(answer, ConfigError):
            problems[host.name] = answer.message.removeprefix(f"host {host.name}: ")
        elif isinstance(answer, BaseException):
            raise answer
        elif (problem := differs(answer)) is not None:
            problems[host.name] = problem
    if problems:
        raise HostsError(problems)


def differs(installed: Installed) -> str | None:
    """What is not as it is here, and how to make it so; None if all is."""
    ours, theirs = versions(), installed.versions
    if installed.protocol != PROTOCOL_VERSION or theirs.stageline != ours.stageline:
        return (
            f"has stageline {theirs.stageline} (protocol {installed.protocol}), here it is {ours.stageline} "
            f"(protocol {PROTOCOL_VERSION}): install the same version on both"
        )
    if theirs.mlx != ours.mlx:
        return (
            f"has mlx {theirs.mlx}, here it is {ours.mlx}, and other kernels round otherwise: install the same "
            f"version there (`pip install mlx=={ours.mlx}`)"
        )
    return None


async def _ask(host: Host, hostfile: Hostfile, python: str) -> Installed:
    answer = await run_on(host, _command(hostfile.envs, python, "worker.versions"), seconds=SECONDS)
    if answer.status == 0:
        try:
            return msgspec.json.decode(answer.output.strip().splitlines()[-1], type=Installed)
        except (msgspec.DecodeError, IndexError):
            pass
    raise ConfigError(f"host {host.name}: {failure(answer, python, f'{python} -m worker.versions')}", param="hosts")


def _command(envs: Sequence[str], python: str, module: str) -> list[str]:
    return [*(["env", *envs] if envs else []), python, "-P", "-m", module]
