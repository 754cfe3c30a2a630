"""Which snapshots the stages hold, which one a prompt begins from, and which one has to go. Pure.

A snapshot is named by its position and the hash of the tokens before it. It is asked for in a message that passes all
stages, and counts once the last one has said that all hold it; it is dropped on all of them by another such message.
Since every order travels the same way, a request that begins from a snapshot cannot miss it: nothing need be locked.

A snapshot inside a prompt has the bits that a fresh prefill has there (`edges`). One that has seen an
answer has not: rows that were decoded one by one are summed in another order than a prompt's. So those, and all that
follow from them, have names of their own, and a request with a seed, which promises the same tokens again, leaves them
alone.
"""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from coordinator.scheduling.edges import LEAST, snapshot_edges
from worker.footprint import Footprint
from worker.protocol import Held

MOST = 1024  # snapshots; looking one up costs time for each
DIGEST_BYTES = 16
AFTER_ANSWER = "-answer"


class Start(msgspec.Struct, frozen=True):
    """Where a prompt's prefill begins: after `position` tokens that the `snapshot` has seen. Snapshots are due at
    `edges`."""

    position: int = 0
    snapshot: str | None = None
    edges: tuple[int, ...] = ()


class PrefixCounts(msgspec.Struct):
    """Prompts that were looked up, those that began from a snapshot, the tokens that this spared, and the snapshots
    that had to make room."""

    queries: int = 0
    hits: int = 0
    tokens: int = 0
    evictions: int = 0


@dataclass(slots=True)
class _Path:
    """A running request: the hash of its tokens up to `position`, and the bytes that it has asked for by names that
    the snapshot may get."""

    exact: bool
    prompt: tuple[int, ...]
    position: int = 0
    hash: "hashlib.blake2b" = field(default_factory=lambda: hashlib.blake2b(digest_size=DIGEST_BYTES))
    asked: dict[tuple[str, ...], tuple[int, ...]] = field(default_factory=dict[tuple[str, ...], tuple[int, ...]])

    def name(self, tokens: Sequence[int], position: int, exact: bool) -> str:
        """The name of a snapshot after `position` of the tokens; positions only grow."""
        self.hash.update(_bytes(tokens[self.position : position]))
        self.position = position
        return _name(position, self.hash.hexdigest(), exact)


class Prefixes:
    """Snapshots by name, least recently used first."""

    def __init__(self) -> None:
        self.counts = PrefixCounts()
        self._limits: tuple[int, ...] = ()
        self._footprints: tuple[Footprint, ...] = ()
        self._stored: dict[str, tuple[int, ...]] = {}  # bytes by stage
        self._paths: dict[int, _Path] = {}

    # --- epochs ---

    def begin(
        self, limits: Sequence[int], footprints: Sequence[Footprint], held: Sequence[Sequence[Held]]
    ) -> list[str]:
        """Stages with these limits of bytes `held` snapshots. What all of them hold can be used; returns the rest."""
        self._limits, self._footprints = tuple(limits), tuple(footprints)
        sizes = [{each.snapshot: each.nbytes for each in stage} for stage in held]
        for name in sizes[0] if sizes else ():
            if all(name in stage for stage in sizes):
                self._stored[name] = tuple(stage[name] for stage in sizes)
        here = {name for stage in sizes for name in stage}
        return sorted(here - self._stored.keys()) + self._make_room(self._none())

    def halt(self) -> None:
        """The epoch is over; what the stages still hold they say when the next one begins."""
        self._stored.clear()
        self._paths.clear()

    @property
    def snapshots(self) -> int:
        """How many can be used."""
        return len(self._stored)

    # --- one request ---

    def start(self, request: int, prompt: tuple[int, ...], marks: Sequence[int], *, exact: bool) -> Start:
        """The longest snapshot that a prompt can begin from: one token at least must be fed. `exact`: to the bit."""
        if not any(self._limits):
            return Start()
        self.counts.queries += 1
        found = [each for each in self._prefixes_of(prompt) if each[2] or not exact]
        position, name, is_exact = found[-1] if found else (0, None, True)
        if name is not None:
            self.counts.hits += 1
            self.counts.tokens += position
            # the shortest one too: conversations share it, though each goes on from a longer one of its own
            for used in (found[0][1], name):
                self._stored[used] = self._stored.pop(used)
        self._paths[request] = _Path(exact=is_exact, prompt=prompt)
        return Start(position, name, snapshot_edges(position, len(prompt), marks))

    def save(self, request: int, position: int) -> tuple[str | None, list[str]]:
        """A snapshot is due in the request's prompt: its name, None if it is not worth it, and what to drop before."""
        path = self._paths[request]
        name = path.name(path.prompt, position, path.exact)
        return (name, dropped) if (dropped := self._ask(path, (name,), position)) is not None else (None, [])

    def finish(self, request: int, answer: Sequence[int]) -> tuple[tuple[str, ...], list[str]]:
        """A request has its whole answer: the names of a snapshot before and after its last token, which stage 0 may
        have fed already or not, none if it is not worth it, and what to drop before."""
        path = self._paths.get(request)
        end = len(path.prompt) + len(answer) if path is not None else 0
        if path is None or end <= LEAST:
            return (), []
        tokens = (*path.prompt, *answer)
        names = tuple(path.name(tokens, position, exact=False) for position in (end - 1, end))
        return (names, dropped) if (dropped := self._ask(path, names, end)) is not None else ((), [])

    def saved(self, request: int, name: str, nbytes: tuple[int, ...]) -> list[str]:
        """All stages hold a snapshot, of so many bytes each. Returns what to drop."""
        path = self._paths.get(request)
        names = next((names for names in path.asked if name in names), None) if path is not None else None
        if path is None or names is None:
            return [name]
        del path.asked[names]
        self._stored[name] = nbytes
        return self._make_room(self._none())

    def closed(self, request: int) -> None:
        """The request has left all stages: what it asked for and has not got will not come."""
        self._paths.pop(request, None)

    # --- bytes ---

    def used(self, stage: int) -> int:
        """Bytes of all snapshots on a stage, with those that are asked for."""
        return sum(sizes[stage] for sizes in (*self._stored.values(), *self._asked()))

    def _asked(self) -> list[tuple[int, ...]]:
        """Bytes of the snapshots that are not there yet."""
        return [sizes for path in self._paths.values() for sizes in path.asked.values()]

    def _ask(self, path: _Path, names: tuple[str, ...], position: int) -> list[str] | None:
        """Reserves room for one of the names; returns what to drop for it, None if it is there or would not fit."""
        asked = {name for other in self._paths.values() for names in other.asked for name in names}
        if any(name in self._stored or name in asked for name in names):
            return None
        need = tuple(footprint.snapshot_bytes(position) for footprint in self._footprints)
        total = map(sum, zip(need, *self._asked(), strict=True))
        if any(size > limit for size, limit in zip(total, self._limits, strict=True)):
            return None
        dropped = self._make_room(need)
        path.asked[names] = need
        return dropped

    def _make_room(self, need: Sequence[int]) -> list[str]:
        """Evicts until there is room for so many more bytes on every stage."""
        dropped: list[str] = []
        used = [self.used(stage) for stage in range(len(self._limits))]
        while self._stored and (
            len(self._stored) > MOST
            or any(held + more > limit for held, more, limit in zip(used, need, self._limits, strict=True))
        ):
            name = next(iter(self._stored))
            sizes = self._stored.pop(name)
            used = [held - size for held, size in zip(used, sizes, strict=True)]
            dropped.append(name)
        self.counts.evictions += len(dropped)
        return dropped

    def _none(self) -> tuple[int, ...]:
        return (0,) * len(self._limits)

    def _prefixes_of(self, prompt: tuple[int, ...]) -> list[tuple[int, str, bool]]:
        """Position, name and exactness of every snapshot that the prompt goes beyond, the best one last."""
        positions = sorted({int(name.partition("-")[0]) for name in self._stored})
        found: list[tuple[int, str, bool]] = []
        digest, hashed = hashlib.blake2b(digest_size=DIGEST_BYTES), 0
        for position in positions:
            if position >= len(prompt):
                break
            digest.update(_bytes(prompt[hashed:position]))
            hashed = position
            for exact in (False, True):
                if (name := _name(position, digest.hexdigest(), exact)) in self._stored:
                    found.append((position, name, exact))
        return found


def _name(position: int, digest: str, exact: bool) -> str:
    return f"{position}-{digest}{'' if exact else AFTER_ANSWER}"


def _bytes(tokens: Sequence[int]) -> bytes:
    return array("I", tokens).tobytes()
