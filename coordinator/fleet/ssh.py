"""One command on a host of the hostfile, over ssh, or here if the host is this machine."""

import asyncio
import shlex
from collections.abc import Sequence
from typing import NamedTuple

from coordinator.fleet.hostfile import Host
from worker.errors import ConfigError

CONNECT_SECONDS = 6
OPTIONS = ("-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_SECONDS}", "-o", "ServerAliveInterval=5")
SSH_FAILED = 255
NO_SUCH_COMMAND = (126, 127)

# what ssh says, and what to do about it
FIXES = (
    ("could not resolve hostname", "correct its name in the hostfile, or add a `Host` entry to ~/.ssh/config"),
    ("permission denied", 'allow the key there (`ssh-copy-id {ssh}`); for another user write "ssh": "user@{name}"'),
    ("host key verification failed", "check the host's key once by hand: `ssh {ssh} true`"),
    ("connection refused", "start its ssh server (macOS: System Settings, General, Sharing, Remote Login)"),
    ("timed out", "wake it up, and check its address and the network"),
    ("no route to host", "check its address, the network, and on macOS the Local Network permission of the terminal"),
    ("network is unreachable", "check its address and the network"),
)


class Answer(NamedTuple):
    """What a command said and its exit status."""

    status: int
    output: str
    errors: str


async def run_on(host: Host, command: Sequence[str], *, seconds: float) -> Answer:
    """Run a command on the host and wait for its end.

    Raises ConfigError, naming the host and the fix, if ssh does not get there, and if it takes longer than `seconds`.
    """
    words = list(command) if host.is_local else ["ssh", *OPTIONS, host.ssh, shlex.join(command)]
    try:
        process = await asyncio.create_subprocess_exec(
            *words,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            process_group=0,
        )
    except FileNotFoundError as error:
        if not host.is_local:
            raise ConfigError("--hosts needs the command `ssh`: install OpenSSH's client", param="hosts") from error
        return Answer(127, "", f"{command[0]}: no such file")
    try:
        async with asyncio.timeout(seconds):
            output, errors = await process.communicate()
    except TimeoutError as error:
        problem = f"host {host.name}: no answer within {seconds:g} s: check it by hand: `ssh {host.ssh}`"
        raise ConfigError(problem, param="hosts") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    answer = Answer(process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace").strip())
    if answer.status == SSH_FAILED and not host.is_local:
        raise ConfigError(f"host {host.name}: {_explained(host, answer.errors)}", param="hosts")
    return answer


def failure(answer: Answer, python: str, what: str) -> str:
    """Why `what`, done by this Python there, came to nothing, and what to do about it."""
    said = " ".join((answer.errors or answer.output).split())[-300:] or "no output"
    if answer.status in NO_SUCH_COMMAND:
        return f"no Python at {python}: install stageline there, or name another one with --python ({said})"
    if "No module named" in said:
        return f"{python} has no stageline: install it there, or name another Python with --python ({said})"
    return f"{what} ended with status {answer.status}: {said}"


def _explained(host: Host, errors: str) -> str:
    said = " ".join(errors.split()) or "ssh failed without a word"
    fix = next((fix for words, fix in FIXES if words in said.lower()), "try it by hand: `ssh {ssh} true`")
    return f"{said}: {fix.format(ssh=host.ssh, name=host.name)}"
