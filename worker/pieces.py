"""The one rule by which coordinator and stage 0 cut a prompt into pieces. Pure."""

import msgspec

from worker.protocol import BLOCK, Chunk


def piece_end(first: int, end: int, size: int) -> int:
    """Where the piece that begins at position `first` of [first, end) ends: after at most `size` positions, and at a
    multiple of BLOCK where one can be reached."""
    last = first + size
    aligned = last - last % BLOCK
    return min(aligned if aligned > first else last, end)


def split(chunk: Chunk, size: int) -> tuple[Chunk, Chunk | None]:
    """A first piece of at most `size` positions, and what is left. The snapshot behind the chunk is behind the last
    piece."""
    end = chunk.first + len(chunk.tokens)
    last = piece_end(chunk.first, end, size)
    if last == end:
        return chunk, None
    count = last - chunk.first
    piece = msgspec.structs.replace(chunk, tokens=chunk.tokens[:count], final=False, save=None)
    return piece, msgspec.structs.replace(chunk, first=last, tokens=chunk.tokens[count:])
