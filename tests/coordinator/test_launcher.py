"""mlx.launch itself, on this machine: its host 127.0.0.1 needs no ssh."""

import asyncio
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coordinator.fleet import launcher as module
from coordinator.fleet.hostfile import Host
from coordinator.fleet.launcher import Launcher

AGENT = """
import os, signal, sys, time
with open({seen!r}, "a") as file:
    print(os.getpid(), os.environ["GIVEN"], *sys.argv[1:], file=file)
print("something went wrong", flush=True)
time.sleep({seconds})
"""


def launch(tmp_path: Path, seconds: float) -> tuple[Launcher, Path]:
    seen = tmp_path / "seen"
    seen.touch()
    (tmp_path / "agent.py").write_text(AGENT.format(seen=str(seen), seconds=seconds))
    agent = [str(tmp_path / "agent.py"), "--name", "a b"]
    return Launcher(Host("127.0.0.1", ("127.0.0.1",)), envs=["GIVEN=x y"], python=sys.executable, agent=agent), seen


def _lines(seen: Path) -> list[str]:
    return seen.read_text().splitlines()


async def until_lines(seen: Path, count: int) -> list[str]:
    deadline = time.monotonic() + 15
    while len(lines := _lines(seen)) < count:
        assert time.monotonic() < deadline, lines
        await asyncio.sleep(0.02)
    return lines


def alive(pid: int) -> bool:
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def test_an_agent_that_ends_is_started_again_with_its_words_and_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)

    async def play() -> None:
        launcher, seen = launch(tmp_path, seconds=0)
        lines = await until_lines(seen, 2)
        await launcher.stop()
        assert [line.split(" ", 1)[1] for line in lines[:2]] == ["x y --name a b"] * 2
        assert launcher.failures >= 1
        assert "something went wrong" in launcher.last_words
        count = len(_lines(seen))
        await asyncio.sleep(0.2)
        assert len(_lines(seen)) == count

    asyncio.run(play())


def test_stopping_ends_an_agent_that_does_not_leave(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_SECONDS", 0.1)
    monkeypatch.setattr(module, "TERMINATE_SECONDS", 0.5)

    async def play() -> None:
        launcher, seen = launch(tmp_path, seconds=60)
        (line,) = await until_lines(seen, 1)
        await launcher.stop()
        assert not alive(int(line.split()[0]))

    asyncio.run(play())


def test_nothing_of_the_launcher_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)

    async def play() -> None:
        launcher, seen = launch(tmp_path, seconds=0.1)
        await until_lines(seen, 1)
        await launcher.stop()

    asyncio.run(play())
    assert [name for name in os.listdir(tmp_path) if name.startswith("stageline-")] == []


@pytest.mark.parametrize("bar", ["x" * 3_000_000, "\\r 1 %\\r 2 %" * 100_000], ids=["one long line", "a progress bar"])
def test_output_without_an_end_is_read_on(tmp_path: Path, bar: str) -> None:
    script = f'import sys; sys.stdout.write("{bar}"); print(); print("stageline: error: it was the bar"); sys.exit(2)'

    async def play() -> None:
        (tmp_path / "agent.py").write_text(script)
        launcher = Launcher(
            Host("127.0.0.1", ("127.0.0.1",)), envs=[], python=sys.executable, agent=[str(tmp_path / "agent.py")]
        )
        deadline = time.monotonic() + 10
        while not launcher.failures:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await launcher.stop()
        assert launcher.error == "it was the bar"
        assert len(launcher.last_words) < 10_000

    asyncio.run(play())


def test_a_launcher_that_hangs_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)

    async def play() -> None:
        launcher, seen = launch(tmp_path, seconds=60)
        (first,) = await until_lines(seen, 1)
        launcher.again()
        _, second = await until_lines(seen, 2)
        assert not alive(int(first.split()[0]))
        monkeypatch.setattr(module, "LEAVE_SECONDS", 0.1)
        await launcher.stop()
        assert not alive(int(second.split()[0]))

    asyncio.run(play())


@pytest.mark.skipif(shutil.which("ssh") is None, reason="no ssh")
def test_it_tells_why_ssh_has_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """mlx.launch would have ssh say nothing. What an earlier run said does not belong to this one."""
    ssh = tmp_path / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -o Port=1 -o UserKnownHostsFile=/dev/null "$@"\n')
    ssh.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(module, "FIRST_DELAY", 0.01)

    async def play() -> None:
        launcher = Launcher(Host("localhost", ("10.0.0.1",)), envs=[], python=sys.executable, agent=["agent.py"])
        deadline = time.monotonic() + 15
        while launcher.failures < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)
        await launcher.stop()
        assert launcher.last_words == "ssh: connect to host localhost port 1: Connection refused"

    asyncio.run(play())
