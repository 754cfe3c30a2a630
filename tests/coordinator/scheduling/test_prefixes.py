"""The index of snapshots, against stages that do what they are told in order."""

import random
from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from coordinator.scheduling.prefixes import MOST, Prefixes, Start
from worker.footprint import GROWTH, Footprint
from worker.protocol import Held

FOOTPRINTS = (Footprint(1000, 0), Footprint(100, GROWTH), Footprint(0, 3 * GROWTH))
AMPLE = (10**9,) * 3


def sizes(position):
    return (1000, 100 + position, 3 * position)


def new(limits=AMPLE, held=((), (), ())):
    prefixes = Prefixes()
    assert prefixes.begin(limits, FOOTPRINTS, held) == []
    return prefixes


def text(length, seed=0):
    rng = random.Random(seed)
    return tuple(rng.randrange(100_000) for _ in range(length))


def run(prefixes, request, prompt, marks=(), *, exact=False, answer=None):
    """A request from its start to its end; returns where it began."""
    start = prefixes.start(request, prompt, marks, exact=exact)
    for edge in start.edges:
        name, _ = prefixes.save(request, edge)
        if name is not None:
            prefixes.saved(request, name, sizes(edge))
    if answer is not None:
        names, _ = prefixes.finish(request, answer)
        if names:
            prefixes.saved(request, names[0], sizes(len(prompt) + len(answer) - 1))
    prefixes.closed(request)
    return start.position


def test_a_second_turn_begins_where_the_first_one_ended():
    prefixes = new()
    prompt, answer = text(3000), text(50, 1)
    assert run(prefixes, 1, prompt, answer=answer) == 0
    assert run(prefixes, 2, (*prompt, *answer, 7, 8)) == 3049
    assert prefixes.counts.queries == 2
    assert prefixes.counts.hits == 1
    assert prefixes.counts.tokens == 3049


def test_the_answer_counts_to_its_last_token_if_stage_0_had_fed_it():
    prefixes = new()
    prompt, answer = text(200), text(50, 1)
    prefixes.start(1, prompt, (), exact=False)
    names, dropped = prefixes.finish(1, answer)
    assert [name.split("-")[0] for name in names] == ["249", "250"]
    assert dropped == []
    prefixes.saved(1, names[1], sizes(250))
    prefixes.closed(1)
    assert prefixes.start(2, (*prompt, *answer, 7), (), exact=False).position == 250
    assert prefixes.start(3, (*prompt, *answer[:-1], 7, 8), (), exact=False).position == 0


def test_the_same_prompt_again_begins_at_its_last_mark_and_another_one_after_the_system():
    prefixes = new()
    prompt = text(1000)
    assert run(prefixes, 1, prompt, (300, 990)) == 0
    assert run(prefixes, 2, prompt, (300, 990)) == 960
    assert run(prefixes, 3, (*prompt[:300], *text(500, 1)), (300, 790)) == 256
    assert run(prefixes, 4, prompt[:960], ()) == 256  # one token has to be fed


def test_a_seed_asks_for_the_bits_of_a_fresh_prefill():
    prefixes = new()
    prompt, answer = text(1000), text(50, 1)
    longer = (*prompt, *answer, *text(500, 2))
    run(prefixes, 1, prompt, (990,), answer=answer)
    assert prefixes.start(2, longer, (), exact=True).position == 960
    assert prefixes.start(3, longer, (), exact=False).position == 1049
    # what follows from an answer's state is not that of a fresh prefill either, and has a name of its own
    assert run(prefixes, 4, longer, (1540,)) == 1049
    assert prefixes.start(5, (*longer, 1), (), exact=True).position == 960
    assert run(prefixes, 6, longer, (1540,), exact=True) == 960
    assert prefixes.start(7, (*longer, 1), (), exact=True).position == 1536
    # both are there now: the exact one serves everybody
    assert (
        prefixes.start(8, (*longer, 1), (), exact=False).snapshot
        == prefixes.start(9, (*longer, 1), (), exact=True).snapshot
    )


def test_what_is_there_or_asked_for_is_not_asked_for_again():
    prefixes = new()
    prompt = text(1000)
    prefixes.start(1, prompt, (990,), exact=False)
    prefixes.start(2, prompt, (990,), exact=False)
    name, _ = prefixes.save(1, 960)
    assert name is not None
    assert prefixes.save(2, 960) == (None, [])
    prefixes.closed(1)  # cancelled before it got there
    prefixes.start(3, prompt, (990,), exact=False)
    assert prefixes.save(3, 960) == (name, [])
    prefixes.saved(3, name, sizes(960))
    prefixes.start(4, (*prompt, 1), (990,), exact=False)
    assert prefixes.save(4, 960) == (None, [])


def test_what_nobody_asked_for_is_dropped():
    prefixes = new()
    name = f"128-{'a' * 32}"
    assert prefixes.saved(9, name, sizes(128)) == [name]
    prefixes.start(1, text(1000), (), exact=False)
    assert prefixes.saved(1, name, sizes(128)) == [name]
    assert prefixes.snapshots == 0


@pytest.mark.parametrize("stage", range(3))
def test_the_longest_unused_makes_room_when_any_stage_is_full(stage):
    limits = list(AMPLE)
    limits[stage] = 2 * sizes(960)[stage]
    prefixes = new(limits)
    prompts = [text(1000, seed) for seed in range(3)]
    for request in (0, 1):
        run(prefixes, request, prompts[request], (990,))
    assert run(prefixes, 2, prompts[0], (990,)) == 960
    prefixes.start(3, prompts[2], (990,), exact=False)
    name, dropped = prefixes.save(3, 960)
    assert name is not None
    assert len(dropped) == 1
    prefixes.saved(3, name, sizes(960))
    assert prefixes.counts.evictions == 1
    assert [prefixes.start(n, prompts[n - 4], (), exact=False).position for n in (4, 5, 6)] == [960, 0, 960]


def test_what_could_never_fit_is_not_asked_for():
    prefixes = new((999, 10**9, 10**9))
    prompt = text(1000)
    run(prefixes, 1, prompt, (990,), answer=(1, 2))
    assert prefixes.snapshots == 0
    assert [prefixes.used(stage) for stage in range(3)] == [0, 0, 0]


def test_no_bytes_no_snapshots():
    prefixes = new((0, 0, 0))
    assert prefixes.start(1, text(1000), (500,), exact=False) == Start()
    assert prefixes.finish(1, (1, 2, 3)) == ((), [])
    assert prefixes.counts.queries == 0


def test_only_what_all_stages_hold_survives_an_epoch():
    prompt = text(500)
    before = new()
    run(before, 1, prompt, (190, 490))
    long, short = sorted(before._stored, reverse=True)
    for lacking in range(3):
        held = [[Held(name, size) for name in (short, long)] for size in sizes(128)]
        del held[lacking][1]
        prefixes = Prefixes()
        assert prefixes.begin(AMPLE, FOOTPRINTS, held) == [long]
        assert prefixes.start(1, prompt, (), exact=True).snapshot == short
        assert [prefixes.used(stage) for stage in range(3)] == list(sizes(128))
    prefixes = Prefixes()
    assert prefixes.begin((1500, *AMPLE[1:]), FOOTPRINTS, [[Held(n, 1000) for n in (short, long)]] * 3) == [short]


def test_the_number_of_snapshots_is_limited():
    held = [[Held(f"{position}-{'a' * 32}", 1) for position in range(128, 128 + MOST + 3)]] * 3
    assert len(Prefixes().begin(AMPLE, FOOTPRINTS, held)) == 3


class Cluster(RuleBasedStateMachine):
    """Requests over prompts that begin alike, with limits that evict all the time. Stages obey in order, later."""

    LIMITS = (4000, 3000, 6000)

    def __init__(self):
        super().__init__()
        self.prefixes = new(self.LIMITS)
        self.seen = {}  # name -> the tokens and the exactness that it stands for
        self.orders = []
        self.stage = {}  # what every stage holds, by name
        self.reports = []
        self.running = {}
        self.numbers = iter(range(1, 10_000))

    def drop(self, names):
        self.orders += [("drop", name) for name in names]

    @rule(pick=st.randoms(use_true_random=False), exact=st.booleans())
    def begin(self, pick, exact):
        number = next(self.numbers)
        prompt = sum((text(pick.choice((64, 100, 128, 300)), seed=pick.randrange(3)) for _ in range(3)), ())
        if self.seen and pick.random() < 0.5:
            prompt = (*pick.choice(list(self.seen.values()))[0], *prompt)[:1500]
        start = self.prefixes.start(number, prompt, (pick.randrange(1, len(prompt)), len(prompt) - 3), exact=exact)
        assert 0 <= start.position < len(prompt)
        was_exact = True
        if start.snapshot is not None:
            tokens, was_exact = self.seen[start.snapshot]
            assert prompt[: start.position] == tokens
            assert was_exact or not exact
            self.orders.append(("open", start.snapshot))
        for edge in start.edges:
            name, dropped = self.prefixes.save(number, edge)
            self.drop(dropped)
            if name is not None:
                self.seen[name] = (prompt[:edge], was_exact)
                self.orders.append(("save", number, (name,), edge))
        self.running[number] = prompt

    @precondition(lambda self: self.running)
    @rule(pick=st.randoms(use_true_random=False), cancelled=st.booleans(), ahead=st.booleans())
    def end(self, pick, cancelled, ahead):
        number = pick.choice(list(self.running))
        prompt = self.running.pop(number)
        answer = text(pick.randint(1, 40), seed=pick.randrange(3))
        if not cancelled:
            names, dropped = self.prefixes.finish(number, answer)
            self.drop(dropped)
            if names:
                end = len(prompt) + len(answer) - 1
                for more, name in enumerate(names):
                    self.seen[name] = ((*prompt, *answer)[: end + more], False)
                self.orders.append(("save", number, names[ahead:], end + ahead))
        elif pick.random() < 0.5:  # its pieces had not run yet
            self.orders = [order for order in self.orders if order[:2] != ("save", number)]
        self.orders.append(("close", number))

    @precondition(lambda self: self.orders)
    @rule(count=st.integers(1, 10))
    def obey(self, count):
        for order in self.orders[:count]:
            match order:
                case ("open", name):
                    assert name in self.stage, "a request begins from what is not there"
                case ("save", number, names, position):
                    assert names[0] not in self.stage, "saved twice"
                    self.stage[names[0]] = sizes(position)
                    self.reports.append(("saved", number, names[0], sizes(position)))
                case ("drop", name):
                    assert self.stage.pop(name, None) is not None, "dropped twice"
                case ("close", number):
                    self.reports.append(("closed", number))
            for index, limit in enumerate(self.LIMITS):
                assert sum(each[index] for each in self.stage.values()) <= limit
        del self.orders[:count]

    @precondition(lambda self: self.reports)
    @rule(count=st.integers(1, 5))
    def report(self, count):
        for kind, *rest in self.reports[:count]:
            if kind == "saved":
                self.drop(self.prefixes.saved(*rest))
            else:
                self.prefixes.closed(*rest)
        del self.reports[:count]

    @invariant()
    def is_within_the_limits(self):
        assert all(self.prefixes.used(index) <= limit for index, limit in enumerate(self.LIMITS))

    def teardown(self):
        for number in list(self.running):
            self.running.pop(number)
            self.orders.append(("close", number))
        while self.orders or self.reports:
            self.obey(1000)
            self.report(1000)
        assert set(self.prefixes._stored) == set(self.stage)
        assert [self.prefixes.used(index) for index in range(3)] == [
            sum(each[index] for each in self.stage.values()) for index in range(3)
        ]
        assert self.prefixes._paths == {}


Cluster.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCluster = Cluster.TestCase


def test_names_do_not_depend_on_how_a_prompt_was_cut():
    assert array("I", [1]).itemsize == 4  # the hash is of four bytes a token
    one, other = new(), new()
    prompt = text(1000)
    one.start(1, prompt, (990,), exact=False)
    other.start(1, prompt, (300, 990), exact=False)
    other.save(1, 256)
    assert one.save(1, 960) == other.save(1, 960)
