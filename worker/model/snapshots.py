"""Copies of sequences' states at one position, kept by name so that a later sequence can begin there.

A Mamba state cannot be rewound, so a sequence can begin only where a copy was made. A name says which tokens the state
has seen, so a snapshot is worth the same to every request and in every epoch.

Shapes: C channels and K width of the convolution, H heads, P head size, N state size; V heads of keys and values, S
positions, A their size.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from worker.errors import ProtocolError
from worker.model.snapshot_files import PARTS, SnapshotFiles
from worker.protocol import Held


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """One sequence's state in a run of layers after `position` tokens; nobody writes to these arrays.

    Of each Mamba layer a tail [1, K-1, C] in the activation dtype and a state [1, H, P, N] float32, of each attention
    layer keys and values [1, V, S, A].
    """

    position: int
    tails: Sequence[mx.array]
    states: Sequence[mx.array]
    keys: Sequence[mx.array]
    values: Sequence[mx.array]

    @property
    def arrays(self) -> list[mx.array]:
        """All of it."""
        return [*self.tails, *self.states, *self.keys, *self.values]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(array.nbytes for array in self.arrays)


class Snapshots:
    """The snapshots of one stage, in memory and, with `files`, on disk too. Not thread-safe: the compute thread's.

    What files hold from an earlier life is in memory from the start, so a file that is lost later costs no request.
    """

    def __init__(self, files: SnapshotFiles | None = None) -> None:
        self._files = files
        found = files.load() if files is not None else {}
        self._kept = {name: Snapshot(position, **arrays) for name, (position, arrays) in found.items()}

    @property
    def nbytes(self) -> int:
        """Bytes in memory."""
        return sum(snapshot.nbytes for snapshot in self._kept.values())

    @property
    def held(self) -> tuple[Held, ...]:
        """What a sequence could begin from, the oldest first."""
        return tuple(Held(name, snapshot.nbytes) for name, snapshot in self._kept.items())

    def keep(self, name: str, snapshot: Snapshot) -> None:
        """Takes a new snapshot; computes its arrays without waiting for them."""
        mx.async_eval(*snapshot.arrays)
        self._kept[name] = snapshot

    def write(self, name: str) -> None:
        """Has a snapshot written, if there are files. Waits for its arrays."""
        if self._files is not None and name in self._kept:
            snapshot = self._kept[name]
            self._files.write(name, snapshot.position, {part: list(getattr(snapshot, part)) for part in PARTS})

    def take(self, name: str, position: int) -> Snapshot:
        """The snapshot `name` at `position`; ProtocolError if this stage does not hold it.

        One at another position is dropped, so that the next epoch does not offer it again.
        """
        snapshot = self._kept.get(name)
        if snapshot is None:
            raise ProtocolError(f"snapshot {name} is not on this stage")
        if snapshot.position != position:
            self.drop(name)
            raise ProtocolError(f"snapshot {name} is at position {snapshot.position}, the request begins at {position}")
        return snapshot

    def drop(self, name: str) -> None:
        """Frees a snapshot and deletes its file; one that is not here is ignored."""
        self._kept.pop(name, None)
        if self._files is not None:
            self._files.remove(name)
