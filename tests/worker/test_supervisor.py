"""What a supervisor does about processes that do not end, and about failures of whoever it tells."""

import asyncio
import logging
import os
import signal
import time
from pathlib import Path

import pytest

from worker import supervisor as module
from worker.supervisor import Supervisor


def test_a_process_stuck_in_the_kernel_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("DRAIN_SECONDS", "TERMINATE_SECONDS", "KILL_SECONDS"):
        monkeypatch.setattr(module, name, 0.1)
    monkeypatch.setattr(Supervisor, "_signal", lambda *_: None)  # no signal ends it

    async def live() -> int:
        supervisor = Supervisor(endpoint=f"ipc://{tmp_path}/none", runtime=tmp_path, ended=lambda *_: None)
        pid = await supervisor.start(3, "one", stages=4)
        began = time.monotonic()
        await supervisor.stop(lambda: None, hearing=())
        assert time.monotonic() - began < 2
        os.kill(pid, signal.SIGKILL)
        await asyncio.wait(supervisor._waits)
        return pid

    pid = asyncio.run(live())
    assert f"not waiting for stage 3 (pid {pid}) any more: SIGKILL did not end it" in caplog.text


def test_a_failure_of_who_is_told_is_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def ended(stage: int, reason: str) -> None:
        raise KeyError(f"{stage}: {reason}")

    async def live() -> None:
        supervisor = Supervisor(endpoint=f"ipc://{tmp_path}/none", runtime=tmp_path, ended=ended)
        await supervisor.start(0, "one")
        supervisor.kill(0)
        await asyncio.wait(supervisor._waits)
        await asyncio.sleep(0)

    asyncio.run(live())
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("stageline.workers", logging.ERROR)
    assert "process was ended by SIGKILL" in caplog.text
