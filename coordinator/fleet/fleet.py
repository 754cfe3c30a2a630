"""Several hosts with an agent each, as the site of a cluster's workers."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence

from msgspec.structs import replace

from coordinator.control import Control
from coordinator.fleet.hostfile import Host
from coordinator.fleet.member import Member
from coordinator.seat import Seat
from coordinator.site import Ended, Hindered, Received
from worker.agent.messages import (
    Beat,
    End,
    Hail,
    Idle,
    Kill,
    Leave,
    Peer,
    Start,
    Started,
    Survey,
    Surveyed,
)
from worker.agent.messages import Ended as WorkerEnded
from worker.protocol import Message

CHECK_SECONDS = 1.0
START_SECONDS = 20.0  # for an agent to start a process
STOP_SECONDS = 30.0  # for an agent to end all its workers, by force in the end: on a Mac that comes late

log = logging.getLogger("stageline.hosts")

Agrees = Callable[[Member], str | None]  # why a host cannot take part


class Fleet:
    """The agents of `hosts`. An agent is asked what `survey` says, and takes part if `agrees` has nothing against it.

    Belongs to the running event loop. `keys` are the hosts' public keys by name, empty in a cluster without keys. What
    ends the fleet and its sockets is the context that made it (`coordinator.fleet.gathering`).
    """

    def __init__(self, hosts: Sequence[Host], *, survey: Survey, keys: dict[str, str], agrees: Agrees) -> None:
        self.members = {host.name: Member(host) for host in hosts}
        self._survey = survey
        self.keys = keys
        self._agrees = agrees
        self._seats: Sequence[Seat] = ()
        self._received: Received = _unheard
        self._ended: Ended = _unheard
        self._hindered: Hindered = _unheard
        self._strangers: set[str] = set()
        self._changed = asyncio.Event()
        self._leaving = False
        self._complete = False  # once all hosts were there, one that comes back need not wait for others

    def speak_through(self, control: Control) -> None:
        """The socket that hands its messages to `hear` and `received`."""
        self._control = control

    # --- who is there ---

    def absent(self) -> list[str]:
        """The hosts whose agent does not take orders yet."""
        return [name for name, member in self.members.items() if not member.present.is_set()]

    def silent(self) -> list[str]:
        """The hosts from whose agent nothing has come yet."""
        return [name for name, member in self.members.items() if not member.session]

    def objection(self) -> str | None:
        """Why a host that has been surveyed cannot take part, the first one's; None if all can."""
        for name, member in self.members.items():
            if member.surveyed is not None and (problem := self._agrees(member)) is not None:
                return f"host {name}: {problem}"
        return None

    async def changed(self) -> None:
        """Wait until an agent says more of itself, or a moment."""
        self._changed.clear()
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def watch(self) -> None:
        """For ever: takes agents for lost that have been silent for longer than the survey says."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            now = time.monotonic()
            # after a pause of this process their beats are still waiting to be read
            if now - last < 2 * CHECK_SECONDS:
                for member in self.members.values():
                    silence = now - member.seen
                    if member.session and silence > self._survey.silence:
                        self._lost(member, f"no sign of life of its agent for {silence:.0f} s")
            last = now

    def hear(self, name: str, session: str, message: Message) -> None:
        """An agent said something."""
        member = self.members.get(name)
        if member is None:
            self._refuse(name, session, f"the hostfile has no host {name!r}, only {', '.join(self.members)}")
        elif isinstance(message, Hail):
            self._hailed(member, session, message)
        elif session != member.session:
            self._control.tell(name, session, Leave(reason="it was taken for lost; it has to begin anew"))
        else:
            member.seen = time.monotonic()
            self._heard(member, message)
        self._changed.set()

    def _hailed(self, member: Member, session: str, message: Hail) -> None:
        name = member.host.name
        if self._leaving:
            self._control.tell(name, session, Leave(reason="the cluster is stopping"))
            return
        if member.session != session:
            if member.session:
                self._control.tell(name, member.session, Leave(reason="another agent of this host took its place"))
                self._lost(member, "another agent took its place")
            log.info("host %s is there: %s, %s", name, message.platform, ", ".join(d.chip for d in message.devices))
            member.hailed(session, message, time.time())
        member.seen = time.monotonic()
        self._complete = self._complete or not self.silent()
        if self._complete:
            for each in self.members.values():
                if each is member or (each.session and not each.asked):
                    peers = [self._peer(other) for other in self.members.values() if other.hail and other is not each]
                    self._tell(each, replace(self._survey, peers=tuple(peers)))
                    each.asked = True

    def _heard(self, member: Member, message: Message) -> None:
        match message:
            case Surveyed():
                self._surveyed(member, message)
            case Started(session=session, pid=pid, problem=problem):
                future = member.starting.pop(session, None)
                if future is not None and not future.done():
                    if pid:
                        member.workers[message.stage] = session
                        future.set_result(pid)
                    else:
                        future.set_exception(OSError(f"host {member.host.name}: {problem}"))
            case WorkerEnded(stage=stage, session=session, reason=reason):
                if member.workers.get(stage) == session:
                    del member.workers[stage]
                    self._ended(stage, reason)
            case Idle():
                member.idle.set()
            case Beat(number=number, refused=refused):
                member.refused = Counter(refused)
                self._tell(member, Beat(number=number))
            case _:
                pass

    def _surveyed(self, member: Member, message: Surveyed) -> None:
        member.surveyed = message
        problem = self._agrees(member)
        if problem is None:
            member.present.set()
            return
        log.error("host %s cannot take part: %s", member.host.name, problem)
        for stage, seat in enumerate(self._seats):
            if seat.host == member.host.name:
                self._hindered(stage, f"host {seat.host} is there and cannot take part: {problem}")

    def _lost(self, member: Member, reason: str) -> None:
        log.error("host %s is lost: %s", member.host.name, reason)
        for stage in member.lost(reason):
            self._ended(stage, f"host {member.host.name}: {reason}")

    def _refuse(self, name: str, session: str, reason: str) -> None:
        if name not in self._strangers:
            self._strangers.add(name)
            log.warning("an agent was sent away: %s", reason)
        self._control.tell(name, session, Leave(reason=reason))

    def _peer(self, member: Member) -> Peer:
        assert member.hail is not None
        return Peer(name=member.host.name, echo=member.hail.echo, key=self.keys.get(member.host.name, ""))

    def _tell(self, member: Member, message: Message) -> None:
        self._control.tell(member.host.name, member.session, message)

    # --- the site of a cluster ---

    def seat(self, seats: Sequence[Seat]) -> None:
        """Which stage runs where."""
        self._seats = seats

    def _of(self, stage: int) -> Member:
        return self.members[self._seats[stage].host]

    def attach(self, received: Received, ended: Ended, hindered: Hindered) -> None:
        """See `Site`, as for the others."""
        self._received, self._ended, self._hindered = received, ended, hindered

    def received(self, stage: int, session: str, message: Message) -> None:
        """A worker said something."""
        self._received(stage, session, message)

    async def reach(self, stage: int) -> None:
        """Waits for the host's agent."""
        await self._of(stage).present.wait()

    async def start(self, stage: int, session: str) -> int:
        """By the host's agent."""
        member = self._of(stage)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        member.starting[session] = future
        self._tell(member, Start(stage=stage, stages=len(self._seats), session=session, card=self._seats[stage].card))
        try:
            async with asyncio.timeout(START_SECONDS):
                return await future
        except TimeoutError as error:
            self._tell(member, Kill(stage=stage, session=session))  # the order or the answer is lost
            raise OSError(f"host {member.host.name}: its agent started no worker within {START_SECONDS:g} s") from error
        finally:
            member.starting.pop(session, None)

    def kill(self, stage: int) -> None:
        """By the host's agent; if that is gone, so is the worker."""
        member = self._of(stage)
        if stage in member.workers:
            self._tell(member, Kill(stage=stage, session=member.workers[stage]))

    @property
    def refused(self) -> Mapping[str, int]:
        """See `Site`."""
        agents = (member.refused_before + member.refused for member in self.members.values())
        return sum(agents, start=Counter(self._control.refused))

    def send(self, stage: int, session: str, message: Message) -> None:
        """To the worker itself."""
        self._control.send(stage, session, message)

    async def stop(self, ask: Callable[[], None], *, hearing: Collection[int]) -> None:
        """By the agents, all at once."""
        self._leaving = True
        ask()
        asked = [member for member in self.members.values() if member.session]
        for member in asked:
            member.idle.clear()
            self._tell(member, End(hearing=tuple(stage for stage in member.workers if stage in hearing)))
        if asked:
            waits = [asyncio.create_task(member.idle.wait(), name=member.host.name) for member in asked]
            _, late = await asyncio.wait(waits, timeout=STOP_SECONDS)
            for wait in late:
                wait.cancel()
                log.error("host %s did not say that its workers have ended", wait.get_name())

    def dismiss(self) -> None:
        """Tell all agents to leave."""
        self._leaving = True
        for member in self.members.values():
            if member.session:
                self._tell(member, Leave(reason="the cluster is stopping"))

    def close(self) -> None:
        """Nothing is left to do: the agents are told to leave by the context that gathered them."""


def _unheard(*_: object) -> None:
    """Nobody is attached yet."""
