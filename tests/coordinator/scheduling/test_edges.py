"""Where prompts are cut: everything once and in order, between blocks, and alike wherever prompts are alike."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.scheduling.edges import LEAST, MOST_SPACED, SPACING, pieces, snapshot_edges
from worker.protocol import BLOCK

SIZES = st.integers(1, 700)
MARKS = st.lists(st.integers(0, 20_000), max_size=4)


@given(first=st.integers(0, 300), length=st.integers(1, 3000), size=SIZES, marks=MARKS)
def test_pieces_cover_everything_once_and_end_at_the_edges(first, length, size, marks):
    end = first + length
    edges = snapshot_edges(first, end, marks)
    cut = list(pieces(first, end, size, edges))
    assert [a for a, _ in cut] == [first, *(b for _, b in cut[:-1])]
    assert cut[-1][1] == end
    assert all(0 < b - a <= size for a, b in cut)
    assert set(edges) <= {b for _, b in cut}
    if size >= BLOCK:
        assert all(b % BLOCK == 0 for _, b in cut[:-1])


@given(
    first=st.integers(0, 20).map(lambda blocks: blocks * BLOCK),
    length=st.integers(1, 3000),
    size=st.integers(1, BLOCK - 1),
    marks=MARKS,
)
def test_pieces_smaller_than_a_block_end_at_the_same_places_wherever_a_prompt_resumes(first, length, size, marks):
    end = first + length
    fresh = [b for _, b in pieces(0, end, size, snapshot_edges(0, end, marks)) if b > first]
    assert [b for _, b in pieces(first, end, size)] == fresh


@given(first=st.integers(0, 5000), end=st.integers(1, 100_000), marks=MARKS)
def test_snapshots_are_few_worth_their_step_and_between_blocks(first, end, marks):
    edges = snapshot_edges(first, end, marks)
    assert list(edges) == sorted(set(edges))
    assert len(edges) <= MOST_SPACED + len(marks)
    for edge in edges:
        assert edge % BLOCK == 0
        assert first + LEAST <= edge < end
    assert all(b - a >= LEAST for a, b in pairwise(edges))


@pytest.mark.parametrize(
    ("first", "end", "marks", "expected"),
    [
        (0, 100, (90,), ()),
        (0, 128, (), ()),
        (0, 129, (128,), (128,)),
        (0, 1000, (300, 990), (256, 960)),
        (256, 1000, (300, 990), (960,)),
        (0, 1000, (940, 990), (896,)),
        (0, 5000, (1990,), (1984, 4096)),
        (0, 5000, (2200,), (2048, 2176, 4096)),
        (0, 8 * SPACING, (), tuple(range(SPACING, 8 * SPACING, SPACING))),
        (0, 64 * SPACING, (), tuple(range(8 * SPACING, 64 * SPACING, 8 * SPACING))),
        (30_000, 32_768, (), ()),
    ],
)
def test_examples(first, end, marks, expected):
    assert snapshot_edges(first, end, marks) == expected
