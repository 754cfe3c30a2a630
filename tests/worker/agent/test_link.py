"""What becomes of words that were on their way when the connection was lost."""

import asyncio
from collections.abc import Iterator

import pytest
import zmq

from tests.worker.agent import playing
from tests.worker.agent.playing import Coordinator
from worker.agent.link import Event, Link
from worker.agent.messages import Idle


@pytest.fixture
def coordinator() -> Iterator[Coordinator]:
    with playing.coordinator() as coordinator:
        yield coordinator


async def spoken_when_down(coordinator: Coordinator, *, lost: bool) -> None:
    """Say something to a coordinator that has just gone, and close."""
    events: asyncio.Queue[Event] = asyncio.Queue()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    link = Link(
        context, coordinator.endpoint, "agent-here/1", gate=None, heard=lambda _: None, noticed=events.put_nowait
    )
    try:
        assert await events.get() is Event.UP
        coordinator.socket.close()
        assert await events.get() is Event.DOWN
        link.send(Idle())
    finally:
        link.close(lost=lost)
    coordinator.open(coordinator.endpoint)
    context.term()


def test_last_words_reach_a_coordinator_that_is_back(coordinator: Coordinator) -> None:
    asyncio.run(spoken_when_down(coordinator, lost=False))
    assert coordinator.hear(Idle)[0] == "agent-here/1"


def test_a_lost_coordinators_words_do_not_reach_the_next_one(coordinator: Coordinator) -> None:
    asyncio.run(spoken_when_down(coordinator, lost=True))
    with pytest.raises(AssertionError, match="no Idle"):
        coordinator.hear(Idle, 0.7)
