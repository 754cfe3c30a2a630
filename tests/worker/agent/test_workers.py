"""What an agent remembers of its workers."""

import asyncio
from itertools import count

import pytest

from worker.agent.messages import Ended, Start, Started
from worker.agent.runtime import Runtime
from worker.agent.workers import Workers
from worker.protocol import Message
from worker.supervisor import Supervisor


def test_the_last_words_about_a_stage_are_said_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not those about all workers that ever were: a service runs for months."""
    pids = count(1)

    async def start(*_: object, **__: object) -> int:
        return next(pids)

    monkeypatch.setattr(Supervisor, "start", start)
    said: list[Message] = []
    runtime = Runtime()
    workers = Workers(endpoint="tcp://127.0.0.1:9", runtime=runtime, arguments=(), say=said.append)

    async def live() -> None:
        for life in range(50):
            for stage in (0, 1):
                await workers.start(Start(stage=stage, stages=2, session=f"{stage}-{life}"))
            for again in range(2):  # too early
                await workers.start(Start(stage=0, stages=2, session=f"early-{life}-{again}"))
            workers._ended(0, "it ended")
            if life < 49:
                workers._ended(1, "it ended")

    asyncio.run(live())
    said.clear()
    workers.say_again()
    runtime.remove()
    assert sorted(said, key=repr) == [
        Ended(stage=0, session="0-49", reason="it ended"),
        Started(stage=0, session="early-49-1", pid=0, problem="stage 0's worker 0-49 has not ended yet"),
        Started(stage=1, session="1-49", pid=100),
    ]


def test_no_directory_for_sockets_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[Message] = []
    runtime = Runtime()
    runtime.remove()
    runtime.path.touch()
    workers = Workers(endpoint="tcp://127.0.0.1:9", runtime=runtime, arguments=(), say=said.append)
    asyncio.run(workers.start(Start(stage=0, stages=1, session="one")))
    runtime.path.unlink()
    (answer,) = said
    assert isinstance(answer, Started)
    assert (answer.pid, answer.problem) == (0, f"{runtime.path} is somebody else's now: restart this agent")
