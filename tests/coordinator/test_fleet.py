import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from coordinator.fleet.fleet import Fleet
from coordinator.fleet.hostfile import Host
from coordinator.seat import Seat
from worker.agent.messages import (
    Beat,
    Device,
    End,
    Ended,
    Hail,
    Idle,
    Kill,
    Leave,
    Start,
    Started,
    Survey,
    Surveyed,
    Versions,
)
from worker.protocol import PROTOCOL_VERSION, Message

HOSTS = (Host("ann@north", ("10.0.0.1",)), Host("south", ("10.0.0.2",)))
DEVICE = Device(chip="M3 Ultra", memory_bytes=1 << 38)


class Desk:
    """A fleet, what it told the agents, and what it told the pipeline."""

    def __init__(self, silence: float = 10.0, objection: str | None = None) -> None:
        self.objection = objection
        self.told: list[tuple[str, str, Message]] = []
        self.refused: dict[str, int] = {}  # by the control link
        self.ended: list[tuple[int, str]] = []
        self.hindered: list[tuple[int, str]] = []
        survey = Survey(model="/model", peers=(), silence=silence)
        self.fleet = Fleet(HOSTS, survey=survey, keys={"north": "N", "south": "S"}, agrees=lambda _: self.objection)
        self.fleet.speak_through(self)  # pyright: ignore[reportArgumentType]: plays `Control`
        self.fleet.attach(lambda *_: None, lambda *words: self.ended.append(words), lambda *w: self.hindered.append(w))
        self.fleet.seat([Seat("north"), Seat("south", card=1), Seat("south", card=0)])

    def tell(self, name: str, session: str, message: Message) -> None:
        self.told.append((name, session, message))

    def hail(self, name: str, session: str = "one") -> None:
        versions = Versions(stageline="1", python="3.11", mlx="1")
        hail = Hail(
            protocol=PROTOCOL_VERSION,
            name=name,
            pid=1,
            address="10.0.0.9",
            echo=f"tcp://{name}:1",
            versions=versions,
            platform="Linux",
            devices=(DEVICE,),
            clock=0.0,
        )
        self.fleet.hear(name, session, hail)

    def surveyed(self, name: str, session: str = "one") -> None:
        report = Surveyed(model_hash="abc", problem="", round_trips=(), devices=(DEVICE,))
        self.fleet.hear(name, session, report)

    def gather(self) -> None:
        for name in ("north", "south"):
            self.hail(name)
        for name in ("north", "south"):
            self.surveyed(name)
        self.told.clear()

    async def start(self, stage: int, session: str) -> None:
        starting = asyncio.create_task(self.fleet.start(stage, session))
        await asyncio.sleep(0)
        name, _, _ = self.told[-1]
        self.fleet.hear(name, "one", Started(stage=stage, session=session, pid=7))
        assert await starting == 7


def scene(act: Callable[[Desk], Coroutine[Any, Any, None]], **settings: Any) -> Desk:
    async def play() -> Desk:
        desk = Desk(**settings)
        await act(desk)
        return desk

    return asyncio.run(play())


def test_nobody_is_asked_before_all_are_there_and_then_each_hears_of_the_others() -> None:
    async def act(desk: Desk) -> None:
        desk.hail("north")
        assert desk.told == []
        assert desk.fleet.silent() == ["south"]
        desk.hail("south")

    told = scene(act).told
    assert [(name, session) for name, session, _ in told] == [("north", "one"), ("south", "one")]
    surveys = [message for _, _, message in told]
    assert all(isinstance(survey, Survey) and survey.model == "/model" for survey in surveys)
    assert [[(peer.name, peer.echo, peer.key) for peer in survey.peers] for survey in surveys] == [  # pyright: ignore
        [("south", "tcp://south:1", "S")],
        [("north", "tcp://north:1", "N")],
    ]


def test_a_host_is_present_once_it_has_been_surveyed_and_agrees() -> None:
    async def act(desk: Desk) -> None:
        desk.hail("north")
        desk.hail("south")
        desk.surveyed("north")
        assert desk.fleet.absent() == ["south"]
        desk.objection = "has another model"
        desk.surveyed("south")
        assert desk.fleet.absent() == ["south"]
        assert desk.fleet.objection() == "host north: has another model"

    scene(act)


def test_a_host_that_comes_back_and_does_not_agree_hinders_its_stages() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        desk.objection = "has another MLX"
        desk.hail("south", session="two")
        desk.surveyed("south", session="two")
        assert desk.fleet.absent() == ["south"]

    reason = "host south is there and cannot take part: has another MLX"
    assert scene(act).hindered == [(1, reason), (2, reason)]


def test_a_worker_is_started_on_its_seat_and_its_end_is_told() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        await desk.start(1, "life")
        assert desk.told == [("south", "one", Start(stage=1, stages=3, session="life", card=1))]
        desk.fleet.kill(1)
        assert desk.told[-1] == ("south", "one", Kill(stage=1, session="life"))
        desk.fleet.hear("south", "one", Ended(stage=1, session="an earlier life", reason="old news"))
        desk.fleet.hear("south", "one", Ended(stage=1, session="life", reason="process was ended by SIGKILL"))

    assert scene(act).ended == [(1, "process was ended by SIGKILL")]


def test_a_worker_that_cannot_be_started_is_no_process() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        starting = asyncio.create_task(desk.fleet.start(0, "life"))
        await asyncio.sleep(0)
        desk.fleet.hear("north", "one", Started(stage=0, session="life", pid=0, problem="no memory"))
        with pytest.raises(OSError, match="host north: no memory"):
            await starting

    scene(act)


def test_with_its_agent_a_hosts_workers_are_lost() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        for stage in (0, 1, 2):
            await desk.start(stage, f"life {stage}")
        starting = asyncio.create_task(desk.fleet.start(2, "next"))
        await asyncio.sleep(0)
        desk.hail("south", "two")
        with pytest.raises(OSError, match="another agent"):
            await starting
        assert desk.fleet.absent() == ["south"]
        assert ("south", "one", Leave(reason="another agent of this host took its place")) in desk.told
        # the others are there: it need not wait for anybody
        assert isinstance(desk.told[-1][2], Survey)
        desk.surveyed("south", "two")
        await asyncio.wait_for(desk.fleet.reach(1), 1)

    ended = scene(act).ended
    assert [stage for stage, _ in ended] == [1, 2]
    assert all(reason == "host south: another agent took its place" for _, reason in ended)


def test_an_agent_that_was_given_up_has_to_begin_anew() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        desk.hail("north", "two")
        desk.told.clear()
        desk.fleet.hear("north", "one", Beat(number=5))

    (told,) = scene(act).told
    assert told[:2] == ("north", "one")
    assert isinstance(told[2], Leave)


def test_silence_is_noticed() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        await desk.start(0, "life")
        watch = asyncio.create_task(desk.fleet.watch())
        for number in range(5):
            await asyncio.sleep(0.5)
            desk.fleet.hear("south", "one", Beat(number=number))
        watch.cancel()

    desk = scene(act, silence=1.2)
    assert [stage for stage, _ in desk.ended] == [0]
    assert "host north: no sign of life of its agent" in desk.ended[0][1]
    assert desk.fleet.absent() == ["north"]
    assert ("south", "one", Beat(number=4)) in desk.told


def test_what_agents_refused_is_counted_over_their_lives() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        desk.refused = {"no_key": 1}
        desk.fleet.hear("north", "one", Beat(number=1, refused={"no_key": 2, "unknown_key": 1}))
        desk.fleet.hear("north", "one", Beat(number=2, refused={"no_key": 3, "unknown_key": 1}))
        desk.hail("north", "two")
        desk.fleet.hear("north", "two", Beat(number=1, refused={"no_key": 1}))
        assert desk.fleet.refused == {"no_key": 5, "unknown_key": 1}

    scene(act)


def test_an_unknown_host_is_sent_away() -> None:
    async def act(desk: Desk) -> None:
        desk.hail("west")

    (told,) = scene(act).told
    assert told[0] == "west"
    assert isinstance(told[2], Leave)
    assert "north, south" in told[2].reason


def test_stopping_waits_until_no_worker_is_left() -> None:
    async def act(desk: Desk) -> None:
        desk.gather()
        await desk.start(0, "life 0")
        await desk.start(1, "life 1")
        asked: list[str] = []
        stopping = asyncio.create_task(desk.fleet.stop(lambda: asked.append("workers"), hearing={1}))
        await asyncio.sleep(0.01)
        assert asked == ["workers"]
        assert desk.told[-2:] == [("north", "one", End(hearing=())), ("south", "one", End(hearing=(1,)))]
        desk.fleet.hear("north", "one", Idle())
        await asyncio.sleep(0.01)
        assert not stopping.done()
        desk.fleet.hear("south", "one", Idle())
        await asyncio.wait_for(stopping, 1)

    scene(act)
