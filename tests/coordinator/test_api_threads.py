import asyncio
import subprocess
import sys
import threading
import time

import pytest

from coordinator.api.threads import Threads


def test_result_and_failure_come_back() -> None:
    async def scenario() -> int:
        threads = Threads(1)
        with pytest.raises(ZeroDivisionError):
            await threads.run(lambda: 1 // 0)
        return await threads.run(lambda: 5)

    assert asyncio.run(scenario()) == 5


def test_no_more_than_the_limit_at_a_time_even_if_a_caller_leaves() -> None:
    go_on, started = threading.Event(), []

    def work() -> None:
        started.append(1)
        assert go_on.wait(5)

    async def scenario() -> None:
        threads = Threads(2)
        tasks = [asyncio.create_task(threads.run(work)) for _ in range(3)]
        while len(started) < 2:  # noqa: ASYNC110 - set by threads
            await asyncio.sleep(0.001)
        tasks[0].cancel()
        await asyncio.sleep(0.02)
        assert len(started) == 2
        go_on.set()
        await asyncio.gather(*tasks[1:])
        assert len(started) == 3

    asyncio.run(scenario())


def test_work_that_does_not_end_does_not_keep_the_process() -> None:
    code = """
import asyncio
from coordinator.api.threads import Threads
async def leave():
    task = asyncio.create_task(Threads(1).run(lambda: [None for _ in iter(int, 1)]))
    await asyncio.sleep(0.05)
    task.cancel()
asyncio.run(leave())
"""
    started = time.monotonic()
    assert subprocess.run([sys.executable, "-c", code], timeout=10).returncode == 0
    assert time.monotonic() - started < 5
