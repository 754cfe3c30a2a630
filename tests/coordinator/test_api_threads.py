import asyncio
import json
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import httpx
import pytest

from coordinator.api import generation
from coordinator.api.threads import Threads
from coordinator.text.prompt import PromptCodec
from tests.coordinator.serving import app
from tests.fakes.pipeline import FakePipeline, spell


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


@pytest.mark.parametrize("declared", [True, False], ids=["length", "no length"])
def test_long_prompts_do_not_hold_up_others(monkeypatch: pytest.MonkeyPatch, declared: bool) -> None:
    monkeypatch.setattr(generation, "LONG_BODY_BYTES", 60)
    go_on, encode = threading.Event(), PromptCodec.encode_marked

    def slowly(self: PromptCodec, text: str, places: Sequence[int], **options: bool) -> Any:
        assert len(text) < 50 or go_on.wait(5)
        return encode(self, text, places, **options)

    monkeypatch.setattr(PromptCodec, "encode_marked", slowly)
    long = json.dumps({"prompt": "x" * 50, "max_tokens": 1}).encode()

    async def pieces() -> AsyncIterator[bytes]:
        yield long

    async def scenario() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app(FakePipeline(spell("a"))))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            post = partial(client.post, "/v1/completions")
            waiting = [asyncio.create_task(post(content=long if declared else pieces())) for _ in range(8)]
            await asyncio.sleep(0.02)
            async with asyncio.timeout(3):
                short = await post(json={"prompt": "x"})
            assert not any(task.done() for task in waiting)
            go_on.set()
            return [short, *await asyncio.gather(*waiting)]

    assert {response.status_code for response in asyncio.run(scenario())} == {200}


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
