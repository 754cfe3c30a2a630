"""Keeps one host's agent running, by mlx.launch.

One launcher a host: mlx.launch ends the processes of all its hosts when one of them ends.
"""

import asyncio
import contextlib
import json
import logging
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from coordinator.fleet.hostfile import Host

FIRST_DELAY, LONGEST_DELAY = 1.0, 30.0
STEADY_SECONDS = 30.0  # a launcher that ran for so long begins with the first delay again
LEAVE_SECONDS, TERMINATE_SECONDS = 5.0, 2.0
LAST_LINES = 5
LONGEST_LINE = 4096  # characters
READ_BYTES = 8192
CALM_TIMES, CALM_SECONDS = 60, 1.0  # the agent may take a while to start
# No input; a host that does not answer is noticed, later than by the agents' beats. mlx.launch would have ssh say
# nothing, but it takes the first words of all for the name of a file: errors go to a file, and a banner is not shown.
SSH_OPTIONS = (
    *("-n", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15"),
    *("-o", "LogLevel=ERROR"),
)
SSH_LOG = "ssh.log"
READ_SECONDS = 1.0  # for the last words, when all who could write are gone
COLOURS = re.compile(r"\x1b\[[0-9;]*m")
MLX_SAYS = "[WARN] Node with rank"  # how the agent ended, which its own words say better
ERROR = "stageline: error: "

log = logging.getLogger("stageline.hosts")


class Launcher:
    """Runs `agent`, words after "python", on the host, again and again until stopped.

    `error` is what the last agent that gave up said of it.
    """

    def __init__(self, host: Host, *, envs: Sequence[str], python: str, agent: Sequence[str]) -> None:
        self.name = host.name
        self._file = json.dumps({"hosts": [{"ssh": host.ssh, "ips": list(host.ips)}], "envs": list(envs)})
        self._command = ("--backend", "ring", "--python", python, "--", *agent)
        self._lines: deque[str] = deque(maxlen=LAST_LINES)  # of this run
        self._lines_before: deque[str] = self._lines
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = False
        self.failures = 0
        self.error = ""
        self._task = asyncio.create_task(self._keep())
        self._task.add_done_callback(log_failure)

    @property
    def last_words(self) -> str:
        """What the agent or ssh said last, in the last run that said anything."""
        return " / ".join(self._lines or self._lines_before)

    async def stop(self) -> None:
        """Wait for the agent to leave, which the coordinator has told it, then end the launcher."""
        self._stopping = True
        for seconds, number in ((LEAVE_SECONDS, signal.SIGTERM), (TERMINATE_SECONDS, signal.SIGKILL)):
            if self._process is None:  # between two runs
                self._task.cancel()
            await asyncio.wait((self._task,), timeout=seconds)
            if self._task.done():
                return
            self._signal(number)
        _, stuck = await asyncio.wait((self._task,), timeout=TERMINATE_SECONDS)
        if stuck:
            self._task.cancel()
            log.error("host %s: the agent's launcher does not end", self.name)

    def again(self) -> None:
        """End what runs: it is started again. For an ssh that waits for a host which is not there any more."""
        self._signal(signal.SIGKILL)

    async def _keep(self) -> None:
        loop, delay = asyncio.get_running_loop(), FIRST_DELAY
        while not self._stopping:
            began = loop.time()
            await self._run()
            if self._stopping:
                return
            self.failures += 1
            if loop.time() - began > STEADY_SECONDS:
                delay = FIRST_DELAY
            log.warning(
                "host %s: its agent is gone; it is started again in %g s; the last words: %s",
                self.name,
                delay,
                " / ".join(self._lines) or "it said nothing",
            )
            await asyncio.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)

    async def _run(self) -> None:
        self._lines_before, self._lines = self._lines or self._lines_before, deque(maxlen=LAST_LINES)
        with tempfile.TemporaryFile("w") as file, tempfile.TemporaryDirectory(prefix="stageline-") as folder:
            file.write(self._file)
            file.flush()
            file.seek(0)
            hostfile = f"/dev/fd/{file.fileno()}"
            launch = ("-c", "from mlx._distributed_utils.launch import main; main()", "--hostfile", hostfile)
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                *launch,
                *self._command,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                process_group=0,
                pass_fds=(file.fileno(),),
                env={**os.environ, "PATH": f"{_ssh_in(Path(folder))}{os.pathsep}{os.environ.get('PATH', os.defpath)}"},
            )
            assert process.stdin is not None
            assert process.stdout is not None
            reading = asyncio.create_task(self._read(process.stdout))
            calming = asyncio.create_task(_calm(process.stdin))
            try:
                await process.wait()
            finally:
                calming.cancel()
                self._signal(signal.SIGKILL)  # ssh, if the launcher is gone without it
                await process.wait()
                await asyncio.wait((reading, calming), timeout=READ_SECONDS)
                reading.cancel()
                self._process = None
                self._lines.extend(_words_of_ssh(Path(folder)))

    async def _read(self, output: asyncio.StreamReader) -> None:
        rest = ""
        while chunk := await output.read(READ_BYTES):
            *lines, rest = (rest + chunk.decode(errors="replace")).split("\n")
            rest = rest[-LONGEST_LINE:]  # a progress bar goes on for ever without an end of line
            for line in lines:
                self._said(line)
        self._said(rest)

    def _said(self, line: str) -> None:
        text = COLOURS.sub("", line).rstrip().rpartition("\r")[2].strip()  # of a progress bar the last state
        if text and not text.startswith(MLX_SAYS):
            self._lines.append(text)
            self.error = text.removeprefix(ERROR) if text.startswith(ERROR) else self.error
            with contextlib.suppress(OSError):
                print(f"{self.name}: {text}", file=sys.stderr, flush=True)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            # macOS refuses to signal a group of which only its dead are left
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def _ssh_in(folder: Path) -> Path:
    """The folder, with an `ssh` in it that adds our options: mlx.launch calls the first one of PATH with its own."""
    ssh = shutil.which("ssh")
    if ssh is not None:
        options = shlex.join((*SSH_OPTIONS, "-E", str(folder / SSH_LOG)))
        (folder / "ssh").write_text(f'#!/bin/sh\nexec {shlex.quote(ssh)} {options} "$@"\n')
        (folder / "ssh").chmod(0o700)
    return folder


def _words_of_ssh(folder: Path) -> list[str]:
    """Why there is no connection."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / SSH_LOG).read_text(errors="replace").split("\n")[:-1]
    return []


async def _calm(stdin: asyncio.StreamWriter) -> None:
    """Keeps mlx.launch from taking a whole core: it asks in a loop whether what it started takes input, which a pipe
    always does, until it fails to write some. So nobody reads there (`ssh -n`, and the agent lets go of it), and here
    is something to write."""
    with contextlib.suppress(OSError):
        for _ in range(CALM_TIMES):
            await asyncio.sleep(CALM_SECONDS)
            stdin.write(b"\n")
            await stdin.drain()
    await asyncio.Event().wait()  # the pipe stays open: at its end mlx.launch would read that again and again


def log_failure(task: "asyncio.Task[None]") -> None:
    """For a task that nobody waits for."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("internal failure", exc_info=error)
