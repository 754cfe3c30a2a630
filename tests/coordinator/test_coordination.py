"""A cluster in which nothing can ever run says so when it begins."""

import pytest

from tests.sim.stages import FOOTPRINT
from tests.sim.world import World
from worker.errors import ConfigError

SHORTEST = FOOTPRINT.bytes(1)


def settle(world: World) -> None:
    for _ in range(1000):
        world.step()


def test_too_little_for_any_sequence_is_refused_with_stage_numbers_and_setting() -> None:
    with pytest.raises(ConfigError) as caught:
        settle(World(stages=2, seed=1, state_bytes=SHORTEST - 1))
    assert caught.value.message.startswith(
        "stage 0 needs 110 B of state for the shortest sequence, but has room for 109 B (the setting state_bytes): "
        "give state_bytes at least 110 or leave it out"
    )


def test_enough_for_the_shortest_sequence_is_enough_to_begin() -> None:
    world = World(stages=2, seed=1, state_bytes=SHORTEST)
    settle(world)
    assert world.cluster.is_ready
