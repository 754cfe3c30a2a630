"""What a worker holds in memory at a moment."""

import msgspec


class Memory(msgspec.Struct, frozen=True):
    """Bytes that MLX holds, the most that it has held, bytes of them that are state, number of sequences, and bytes of
    snapshots, which share theirs with a sequence that began from one until its first step."""

    active: int = 0
    peak: int = 0
    state: int = 0
    sequences: int = 0
    snapshots: int = 0
