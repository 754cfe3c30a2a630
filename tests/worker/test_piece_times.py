"""What a stage tells about the speed of prompts."""

import pytest

from worker.protocol import PieceTime
from worker.telemetry.piece_times import PieceTimes


def test_pieces_of_less_than_a_block_tell_nothing():
    times = PieceTimes()
    times.heard(63, 1.0)
    assert times.latest == ()


def test_the_first_piece_of_a_size_counts_until_there_is_a_second():
    times = PieceTimes()
    times.heard(512, 9.0)
    assert times.latest == (PieceTime(512, 9.0),)
    times.heard(512, 1.0)
    assert times.latest == (PieceTime(512, 1.0),)
    times.heard(512, 2.0)
    assert times.latest == (PieceTime(512, 1.25),)


def test_sizes_are_kept_apart_and_in_order():
    times = PieceTimes()
    for rows in (512, 64, 127, 128, 1000, 100):
        times.heard(rows, rows / 100)
    assert [time.rows for time in times.latest] == [pytest.approx(127 - 27 / 4), 128, 1000]
    assert [time.seconds for time in times.latest] == [pytest.approx(time.rows / 100) for time in times.latest]
