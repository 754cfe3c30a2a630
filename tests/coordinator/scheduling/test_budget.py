"""Room for state: what the stages say of their memory becomes limits."""

from coordinator.scheduling.budget import MOST_SNAPSHOT_BYTES, Budget, rooms, snapshot_limits
from worker.footprint import GROWTH, Footprint
from worker.protocol import Loaded


def stage(memory, *, weights, usable, constant=100, growing=10):
    return Loaded(
        fused_layers=0,
        parameter_bytes=weights,
        state=Footprint(constant, growing),
        memory=memory,
        usable_bytes=usable,
    )


def test_stages_of_one_machine_share_its_memory():
    stages = [
        stage("one", weights=300, usable=1000),
        stage("other", weights=50, usable=60, constant=1, growing=0),
        stage("one", weights=500, usable=1000, growing=3),
    ]
    first, second = rooms(stages, None)
    assert (first.name, first.footprint, first.limit) == ("stages 0, 2", Footprint(200, 13), 200)
    assert first.origin == "1 kB of one less 800 B of weights"
    assert (second.name, second.footprint, second.limit) == ("stage 1", Footprint(1, 0), 10)


def test_a_setting_is_the_limit_of_every_stage():
    stages = [stage("one", weights=3, usable=10), stage("one", weights=3, usable=10)]
    assert [(room.name, room.limit) for room in rooms(stages, 77)] == [("stage 0", 77), ("stage 1", 77)]


def test_more_weights_than_memory_leave_no_room_and_unknown_memory_has_no_limit():
    assert [room.limit for room in rooms([stage("one", weights=30, usable=10)], None)] == [0]
    assert rooms([stage("one", weights=30, usable=0)], None) == ()
    assert Budget().most is None


def test_promises_are_for_the_end_of_a_request_and_are_given_back():
    budget = Budget()
    budget.begin(rooms([stage("one", weights=0, usable=250)], None))
    assert budget.refusal(15 * GROWTH) is None
    assert "the most is 3840 positions" in budget.refusal(15 * GROWTH + 1)
    assert budget.most == 3840
    budget.take(1, GROWTH)
    assert budget.fits(4 * GROWTH)
    assert not budget.fits(4 * GROWTH + 1)
    budget.free(1)
    budget.free(1)
    assert budget.fits(15 * GROWTH)


def test_a_stage_without_attention_has_room_for_any_length():
    budget = Budget()
    budget.begin(rooms([stage("one", weights=0, usable=150, growing=0)], None))
    assert (budget.most, budget.refusal(10**6)) == (None, None)


def test_no_room_even_for_the_constant_part():
    budget = Budget()
    budget.begin(rooms([stage("one", weights=0, usable=50)], None))
    assert "the most is 0 positions" in budget.refusal(1)


def test_snapshots_get_a_quarter_of_what_a_machine_has_left_and_sequences_the_rest():
    stages = [
        stage("one", weights=300, usable=1000),
        stage("one", weights=500, usable=1000),
        stage("full", weights=60, usable=50),
        stage("large", weights=0, usable=100 << 30),
        stage("unknown", weights=1, usable=0),
    ]
    limits = snapshot_limits(stages, None)
    assert limits == (25, 25, 0, MOST_SNAPSHOT_BYTES, MOST_SNAPSHOT_BYTES)
    assert [room.limit for room in rooms(stages, None, limits)] == [150, 0, (100 << 30) - MOST_SNAPSHOT_BYTES]
    assert rooms(stages, None, limits)[0].origin == "1 kB of one less 800 B of weights and 50 B for snapshots"
    assert snapshot_limits(stages, 7) == (7,) * 5
