"""Where a prompt is cut into pieces, and after which of them a snapshot is taken. Pure.

All edges inside a prompt are multiples of BLOCK, because cutting there changes no bit (`worker.protocol`). So it makes
no difference to a token which pieces came before, or whether a snapshot stood in for them.
"""

from collections.abc import Iterator, Sequence

from worker.protocol import BLOCK

LEAST = 2 * BLOCK  # tokens that a snapshot must save: a piece costs a step of every stage, however short it is
SPACING = 2048  # tokens between snapshots inside a long prompt
MOST_SPACED = 8  # of them in one prompt, however long it is


def pieces(first: int, end: int, size: int, edges: Sequence[int] = ()) -> Iterator[tuple[int, int]]:
    """Positions [first, end) in pieces of at most `size`, which also end at each of the ascending `edges`."""
    inside = [edge for edge in edges if first < edge < end]
    for edge in (*inside, end):
        while first < edge:
            last = first + size
            aligned = last - last % BLOCK
            last = min(aligned if aligned > first else last, edge)
            yield first, last
            first = last


def snapshot_edges(first: int, end: int, marks: Sequence[int]) -> tuple[int, ...]:
    """Where to take snapshots in a prompt of `end` tokens whose first `first` are known already; ascending.

    At the last BLOCK edge before each of the `marks`, where another prompt may go on differently, and evenly in between
    in case it does so elsewhere.
    """
    spacing = max(SPACING, -(-end // (MOST_SPACED * BLOCK)) * BLOCK)
    marked = {mark - mark % BLOCK for mark in marks}
    chosen: list[int] = []
    for edge in sorted(marked | set(range(spacing, end, spacing))):
        if not first + LEAST <= edge < end:
            continue
        if not chosen or edge >= chosen[-1] + LEAST:
            chosen.append(edge)
        elif chosen[-1] not in marked:
            chosen[-1] = edge
    return tuple(chosen)
