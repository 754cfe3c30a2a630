"""The size of a prompt's pieces follows the slowest stage."""

import random

import pytest

from coordinator.scheduling.pace import Pace
from worker.protocol import BLOCK, PieceTime


def pace(*, most=512, decode_pause=0.1, prefill_pause=0.1):
    return Pace(most=most, decode_pause=decode_pause, prefill_pause=prefill_pause)


def sizes_found(made, seconds, steps=40):
    """Feed back what pieces of the size that it chose take, as a worker does: by size, the latest of each."""
    times, sizes = {}, []
    for _ in range(steps):
        times[made.beside] = PieceTime(made.beside, seconds(made.beside))
        made.heard(0, tuple(times[size] for size in sorted(times)))
        sizes.append(made.beside)
    return sizes


def test_it_is_the_most_until_something_was_measured():
    made = pace()
    made.heard(0, ())
    assert (made.alone(4096, 1), made.beside) == (512, 512)


@pytest.mark.parametrize(
    ("rate", "size"), [(10, 64), (640, 64), (1280, 128), (2000, 128), (2560, 256), (1e6, 512)], ids=str
)
def test_the_slowest_stage_computes_a_piece_within_the_pause(rate, size):
    made = pace()
    made.heard(0, (PieceTime(512, 512 / 1e6),))
    made.heard(1, (PieceTime(512, 512 / rate),))
    assert made.beside == size


# Super at 8 bits, predicted
M3_ULTRA = (PieceTime(64, 0.210), PieceTime(128, 0.250), PieceTime(256, 0.312), PieceTime(512, 0.601))


def test_beside_answers_a_size_that_takes_hardly_longer_is_taken_whatever_the_pause():
    """The weights have to be read for 64 rows too."""
    made = pace(decode_pause=0.1)
    made.heard(0, M3_ULTRA)
    assert made.beside == 256
    made.heard(1, (PieceTime(64, 0.5),))  # and no more of one that takes its share
    assert made.beside == 64


@pytest.mark.parametrize(("prefill_pause", "size"), [(1.0, 512), (0.5, 256), (0.1, 256)])
def test_alone_a_prompt_may_take_longer_but_no_less_than_beside(prefill_pause, size):
    made = pace(decode_pause=0.2, prefill_pause=prefill_pause)
    made.heard(0, M3_ULTRA)
    assert made.alone(4096, 1) == size


@pytest.mark.parametrize(("rows", "stages", "size"), [(4096, 1, 512), (512, 1, 512), (512, 4, 256), (4096, 4, 256)])
def test_a_prompt_is_on_several_stages_at_once_if_that_is_sooner(rows, stages, size):
    """512 rows on four: 2.3 s in eight pieces, 1.6 s in two, 2.4 s in one."""
    made = pace(prefill_pause=1.0)
    made.heard(0, M3_ULTRA)
    assert made.alone(rows, stages) == size


@pytest.mark.parametrize("stages", [1, 2, 4, 8])
@pytest.mark.parametrize("rows", [300, 512, 4096])
@pytest.mark.parametrize("known", [64, 128, 512])
def test_the_best_size_is_found_from_any_other(known, rows, stages):
    """A piece of n rows takes 160 ms and 0.8 ms a row."""

    def seconds(size):
        return 0.16 + size * 0.0008

    def sooner(size):
        return -(-rows // size) * seconds(min(size, rows)) + (stages - 1) * seconds(min(size, rows))

    made, times = pace(prefill_pause=1.0), {known: PieceTime(known, seconds(known))}
    for _ in range(4):
        made.heard(0, tuple(times[size] for size in sorted(times)))
        size = min(made.alone(rows, stages), rows)
        times[size] = PieceTime(size, seconds(size))
    assert sooner(size) <= 1.1 * min(map(sooner, made.sizes))


@pytest.mark.parametrize("most", [1, 50, 64, 100, 700])
def test_it_is_never_more_than_allowed(most):
    made = pace(most=most)
    for rate in (1e-3, 1e3, 1e9):
        for rows in (64.0, 100.0, 300.0):
            made.heard(0, (PieceTime(rows, rows / rate),))
            assert 1 <= made.beside <= made.alone(4096, 2) <= most
    assert made.beside == most


def test_noise_does_not_move_it_to_and_fro():
    rng = random.Random(1)
    sizes = sizes_found(pace(), lambda rows: rows / (2560 * rng.uniform(0.85, 1.15)), steps=200)
    assert len(set(sizes[10:])) == 1


@pytest.mark.parametrize(("pause", "size"), [(0.1, 512), (0.05, 256), (0.04, 128), (0.01, 128)])
def test_a_fixed_part_of_every_step_does_not_shrink_it_for_ever(pause, size):
    """A step of n rows takes 20 ms and 0.1 ms a row."""
    assert sizes_found(pace(decode_pause=pause), lambda rows: 0.02 + rows * 1e-4)[-1] == size


def test_one_slow_step_is_not_held_against_a_size_for_ever():
    """The first piece of 512 rows took 3 s, for its kernels were compiled."""
    made = pace()
    made.heard(0, (PieceTime(512, 3.0),))
    assert made.beside == BLOCK
    made.heard(0, (PieceTime(64, 0.008), PieceTime(512, 3.0)))
    assert made.beside == 512
    made.heard(0, (PieceTime(64, 3.0), PieceTime(512, 0.08)))
    assert made.beside == 512


def test_a_new_process_is_measured_anew():
    made = pace()
    made.heard(0, (PieceTime(512, 100.0),))
    assert made.beside == BLOCK
    made.forget(0)
    made.heard(0, (PieceTime(512, 0.001),))
    assert made.beside == 512
