"""Anything in any order: requests come, are cancelled, run out of time; stages die; messages are repeated; the clock
moves. Hypothesis looks for an order that breaks a promise, and shrinks it to a short one.
"""

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.sim.stages import FOOTPRINT, expected_tokens
from tests.sim.world import World, request
from worker.errors import DeadlineError, NoRoomError, QueueFullError, StageFailedError

TEXT = [(7 * i * i + 3 * i) % 250 for i in range(200)]
CONSTANT, GROWING = FOOTPRINT.constant, FOOTPRINT.growing
QUEUE_TIMEOUT, REQUEST_TIMEOUT = 10.0, 30.0


class Cluster(RuleBasedStateMachine):
    @initialize(
        stages=st.sampled_from([1, 2, 3, 5]),
        seed=st.integers(0, 999),
        chunk=st.sampled_from([1, 5, 64]),
        repeats=st.sampled_from([0.0, 0.1]),
        max_running=st.integers(1, 20),
        max_waiting=st.integers(0, 4),
        room=st.integers(1, 8),
    )
    def start(self, stages, seed, chunk, repeats, max_running, max_waiting, room):
        self.limit = room * (CONSTANT + GROWING) + GROWING // 2
        self.max_running, self.max_waiting = max_running, max_waiting
        self.world = World(
            stages=stages,
            seed=seed,
            chunk=chunk,
            repeats=repeats,
            state_bytes=self.limit,
            max_running=max_running,
            max_waiting=max_waiting,
            queue_timeout=QUEUE_TIMEOUT,
            request_timeout=REQUEST_TIMEOUT,
        )
        self.asked, self.arrived, self.cancelled, self.answers = {}, {}, set(), {}
        self.kills = 0
        while not self.world.cluster.is_ready:
            assert self.world.step()

    # --- what happens ---

    @rule(
        length=st.one_of(st.integers(1, 12), st.integers(13, 200)),
        tokens=st.one_of(st.integers(1, 12), st.integers(13, 1500)),
        ends=st.booleans(),
    )
    def submit(self, length, tokens, ends):
        number = len(self.asked) + 1
        asked = request(number, TEXT[:length], tokens if ends else min(tokens, 40), stop=ends)
        world, waiting = self.world, self.world.scheduler.waiting
        self.asked[number], self.arrived[number] = asked, world.now
        needs = FOOTPRINT.bytes(length + asked.max_tokens - 1)
        try:
            world.submit(number, asked)
        except NoRoomError:
            self.refused(number)
            assert needs > self.limit
        except QueueFullError:
            self.refused(number)
            assert waiting == world.scheduler.waiting == self.max_waiting
        else:
            assert needs <= self.limit or not world.cluster.is_ready

    def refused(self, number):
        del self.asked[number], self.arrived[number]
        self.asked[number] = None
        assert not self.world.scheduler.holds(number)

    @precondition(lambda self: self.open())
    @rule(data=st.data())
    def cancel(self, data):
        number = data.draw(st.sampled_from(self.open()))
        self.cancelled.add(number)
        self.world.cancel(number)

    @rule(count=st.integers(1, 300))
    def happen(self, count):
        for _ in range(count):
            self.world.step()

    @rule(seconds=st.sampled_from([0.1, 3.0, 11.0]))
    def wait(self, seconds):
        self.world.now += seconds
        self.world.expire()

    @rule(data=st.data())
    def kill(self, data):
        self.kills += 1
        self.world.kill(data.draw(st.integers(0, self.world.stages - 1)))
        assert not self.world.cluster.is_ready

    @rule()
    def rest(self):
        """Nobody interferes any more: everything ends, and nothing is left behind."""
        world = self.world
        for _ in range(400_000):
            if not world.step():
                break
        else:
            raise AssertionError("the cluster did not come to rest")
        assert world.cluster.is_ready
        assert self.open() == []
        assert world.scheduler.running == world.scheduler.waiting == 0
        assert all(not engine.states for engine in world.engines.values())

    def open(self):
        ended = self.world.finished.keys() | self.world.errors.keys() | self.cancelled
        return [number for number, asked in self.asked.items() if asked is not None and number not in ended]

    # --- what always holds ---

    @invariant()
    def tokens_are_those_of_the_request_alone(self):
        for number, tokens in self.world.tokens.items():
            expected = self.expected(number)
            assert tokens == expected[: len(tokens)]
            if number in self.world.finished:
                assert tokens == expected
                stopped = expected[-1] in self.asked[number].stop_tokens
                assert self.world.finished[number] == ("stop" if stopped else "length")

    @invariant()
    def ends_have_reasons(self):
        """That nothing ends twice, or speaks after its end, the world checks itself."""
        world = self.world
        for number, error in world.errors.items():
            age = world.now - self.arrived[number]
            match error:
                case DeadlineError():
                    assert age >= QUEUE_TIMEOUT
                case StageFailedError():
                    assert self.kills
                case _:
                    raise AssertionError(error)

    @invariant()
    def deadlines_are_kept(self):
        scheduler = self.world.scheduler
        for number in self.open():
            assert self.world.now - self.arrived[number] < REQUEST_TIMEOUT
            if number in scheduler._waiting:
                assert self.world.now - self.arrived[number] < QUEUE_TIMEOUT

    @invariant()
    def limits_are_kept(self):
        world = self.world
        assert world.scheduler.running <= self.max_running
        assert world.scheduler.waiting <= self.max_waiting
        for engine in world.engines.values():
            assert len(engine.states) <= self.max_running
            assert engine.nbytes <= self.limit

    @invariant()
    def the_first_come_is_first_served(self):
        scheduler = self.world.scheduler
        waiting = list(scheduler._waiting)
        assert waiting == sorted(waiting)
        if waiting:
            assert max([*scheduler._running, *scheduler._closing, 0]) < waiting[0]

    @invariant()
    def batches_are_even(self):
        sizes = [len(members) for members in self.world.scheduler._batches.members][: self.world.stages]
        assert max(sizes) - min(sizes) <= 1

    @invariant()
    def what_ended_here_ends_on_the_stages(self):
        """Every stage holds only what the coordinator knows, or what its Close will reach."""
        scheduler = self.world.scheduler
        if scheduler.epoch:
            known = scheduler._running.keys() | scheduler._closing
            for service in self.world.services:
                links = service._transport.links
                if links is not None and links.epoch == scheduler.epoch:
                    assert set(self.world.engines[service._stage].states) <= known

    def expected(self, number):
        if number not in self.answers:
            self.answers[number] = expected_tokens(self.asked[number], self.world.stages)
        return self.answers[number]

    def teardown(self):
        if hasattr(self, "world"):
            self.rest()


pytestmark = pytest.mark.timeout(120)  # to find a failure's shortest form takes a while
TestCluster = Cluster.TestCase
TestCluster.settings = settings(
    max_examples=150,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)
