"""The size of a prompt's pieces follows the slowest stage."""

import random

import pytest

from coordinator.scheduling.pace import Pace
from worker.protocol import BLOCK


def test_it_is_the_most_until_something_was_measured():
    assert Pace(most=512, pause=0.1).size == 512


@pytest.mark.parametrize(
    ("rate", "size"), [(10, 64), (640, 64), (1280, 128), (2000, 128), (2560, 256), (1e6, 512)], ids=str
)
def test_the_slowest_stage_computes_a_piece_within_the_pause(rate, size):
    pace = Pace(most=512, pause=0.1)
    pace.heard(0, 512, 512 / 1e6)
    pace.heard(1, 512, 512 / rate)
    assert pace.size == size


@pytest.mark.parametrize("most", [1, 50, 64, 100, 700])
def test_it_is_never_more_than_allowed(most):
    pace = Pace(most=most, pause=0.1)
    for rate in (1e-3, 1e3, 1e9):
        for step in range(1, 20):
            pace.heard(0, step * 100, step * 100 / rate)
            assert 1 <= pace.size <= most
    assert pace.size == most


def test_noise_does_not_move_it_to_and_fro():
    pace, rng, rows, seconds = Pace(most=512, pause=0.1), random.Random(1), 0, 0.0
    sizes = set()
    for step in range(200):
        rows += 512
        seconds += 512 / (2560 * rng.uniform(0.85, 1.15))
        pace.heard(0, rows, seconds)
        if step > 10:
            sizes.add(pace.size)
    assert len(sizes) == 1


def test_a_fixed_part_of_every_step_does_not_shrink_it_for_ever():
    """A step of n rows takes 20 ms and 0.1 ms a row: what fits into 100 ms is found from any size."""
    pace, rows, seconds = Pace(most=512, pause=0.1), 0, 0.0
    for _ in range(20):
        rows += pace.size
        seconds += 0.02 + pace.size * 1e-4
        pace.heard(0, rows, seconds)
    assert pace.size == 512
    slow, rows, seconds = Pace(most=512, pause=0.05), 0, 0.0
    for _ in range(20):
        rows += slow.size
        seconds += 0.02 + slow.size * 1e-4
        slow.heard(0, rows, seconds)
    assert slow.size in (128, 256)


def test_a_new_process_is_measured_anew():
    pace = Pace(most=512, pause=0.1)
    pace.heard(0, 1000, 100.0)
    assert pace.size == BLOCK
    pace.forget(0)
    pace.heard(0, 512, 0.001)
    assert pace.size == 512
