"""Room for the state of sequences: what each memory can hold, and what is promised of it. Pure.

A request is promised what it will need at its very end, so that what has begun can never run out of memory.
"""

from collections.abc import Sequence

import msgspec

from coordinator.size import size
from worker.footprint import GROWTH, Footprint
from worker.protocol import Loaded

SNAPSHOT_SHARE = 4
MOST_SNAPSHOT_BYTES = 2 << 30


class Room(msgspec.Struct, frozen=True):
    """A memory: `limit` bytes for the state of sequences, of which each has `footprint` there.

    `name` is what messages call it, `origin` where the limit comes from.
    """

    name: str
    footprint: Footprint
    limit: int
    origin: str


def snapshot_limits(stages: Sequence[Loaded], limit: int | None) -> tuple[int, ...]:
    """Bytes that snapshots may take on each stage: `limit`, or without it a quarter of what the machine has left, but
    no more than MOST_SNAPSHOT_BYTES."""
    if limit is not None:
        return (limit,) * len(stages)
    limits: list[int] = []
    for stage in stages:
        sharing = [other for other in stages if other.memory == stage.memory]
        left = stage.usable_bytes - sum(other.parameter_bytes for other in sharing)
        share = max(left, 0) // (SNAPSHOT_SHARE * len(sharing))
        limits.append(min(share, MOST_SNAPSHOT_BYTES) if stage.usable_bytes else MOST_SNAPSHOT_BYTES)
    return tuple(limits)


def rooms(stages: Sequence[Loaded], limit: int | None, snapshots: Sequence[int] = ()) -> tuple[Room, ...]:
    """The memories of all stages, in order: one a stage with `limit` bytes, or without it what the machine has left,
    one for all stages that share it, less what `snapshots` may take on each. A memory of unknown size has no limit."""
    if limit is not None:
        return tuple(
            Room(f"stage {index}", stage.state, limit, "the setting state_bytes") for index, stage in enumerate(stages)
        )
    found: list[Room] = []
    for memory in dict.fromkeys(stage.memory for stage in stages if stage.usable_bytes):
        sharing = [index for index, stage in enumerate(stages) if stage.memory == memory]
        usable = min(stages[index].usable_bytes for index in sharing)
        weights = sum(stages[index].parameter_bytes for index in sharing)
        taken = sum(snapshots[index] for index in sharing) if snapshots else 0
        found.append(
            Room(
                name=f"stage{'s' if len(sharing) > 1 else ''} {', '.join(map(str, sharing))}",
                footprint=Footprint(
                    sum(stages[index].state.constant for index in sharing),
                    sum(stages[index].state.growing for index in sharing),
                ),
                limit=max(usable - weights - taken, 0),
                origin=f"{size(usable)} of {memory} less {size(weights)} of weights"
                + (f" and {size(taken)} for snapshots" if taken else ""),
            )
        )
    return tuple(found)


class Budget:
    """What is promised to the requests that hold a place."""

    def __init__(self) -> None:
        self._rooms: tuple[Room, ...] = ()
        self._promised: dict[int, int] = {}  # positions by request

    def begin(self, rooms: Sequence[Room]) -> None:
        """Everything is free again; these are the memories."""
        self._rooms = tuple(rooms)
        self._promised.clear()

    def refusal(self, positions: int) -> str | None:
        """Why a sequence of so many positions fits into no empty cluster, with the arithmetic; None if it does."""
        for room in self._rooms:
            need = room.footprint.bytes(positions)
            if need > room.limit:
                growing = need - room.footprint.constant
                return (
                    f"{positions} positions, prompt and answer, need {size(need)} of state on {room.name} "
                    f"({size(room.footprint.constant)} of Mamba layers and {size(growing)} of keys and values), which "
                    f"has room for {size(room.limit)} ({room.origin}); the most is {_most(room)} positions"
                )
        return None

    @property
    def most(self) -> int | None:
        """The longest sequence that an empty cluster has room for; None if there is no limit."""
        return min((most for room in self._rooms if (most := _most(room)) is not None), default=None)

    def fits(self, positions: int) -> bool:
        """Whether there is room for one more sequence of so many positions now."""
        return all(self.used(room) + room.footprint.bytes(positions) <= room.limit for room in self._rooms)

    def used(self, room: Room) -> int:
        """Bytes of a memory that are promised."""
        return sum(map(room.footprint.bytes, self._promised.values()))

    def take(self, request: int, positions: int) -> None:
        """Promise it to a request."""
        self._promised[request] = positions

    def free(self, request: int) -> None:
        """The request's state is gone on every stage."""
        self._promised.pop(request, None)


def _most(room: Room) -> int | None:
    """The longest sequence that fits alone; None if all do."""
    constant, growing = room.footprint.constant, room.footprint.growing
    if constant > room.limit:
        return 0
    return (room.limit - constant) // growing * GROWTH if growing else None
