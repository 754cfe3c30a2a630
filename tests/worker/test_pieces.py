"""Where prompts are cut."""

import pytest

from worker.pieces import piece_end, split
from worker.protocol import Chunk


@pytest.mark.parametrize(
    ("first", "end", "size", "last"),
    [
        (0, 1000, 512, 512),
        (0, 100, 512, 100),
        (10, 1000, 128, 128),
        (70, 1000, 64, 128),
        (70, 1000, 7, 77),
        (0, 9, 7, 7),
    ],
)
def test_at_multiples_of_a_block_where_one_can_be_reached(first, end, size, last):
    assert piece_end(first, end, size) == last


@pytest.mark.parametrize("final", [False, True])
@pytest.mark.parametrize("size", [7, 64, 100, 128, 512])
def test_the_parts_of_a_chunk_are_the_chunk(size, final):
    rest: Chunk | None = Chunk(
        epoch=3, request=5, first=70, tokens=tuple(range(300)), final=final, save="370-" + "0" * 32
    )
    whole, parts = rest, []
    while rest is not None:
        part, rest = split(rest, size)
        parts.append(part)
    assert all(len(part.tokens) <= size for part in parts)
    assert tuple(token for part in parts for token in part.tokens) == whole.tokens
    assert [part.first for part in parts] == [70 + sum(len(p.tokens) for p in parts[:i]) for i in range(len(parts))]
    assert [(part.final, part.save) for part in parts[:-1]] == [(False, None)] * (len(parts) - 1)
    assert (parts[-1].final, parts[-1].save) == (final, whole.save)
    assert {(part.epoch, part.request) for part in parts} == {(3, 5)}
