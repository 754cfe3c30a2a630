"""What a stage remembers of each sequence between steps, and how sequences that step together share it.

A Mamba layer's state has a fixed size, so sequences that decode together share one array per layer (a `Pack`); when
the members of a step change, rows move to new packs bit for bit. Keys and values grow, each sequence's at its own
length, so they stay apart: attention needs no padding and no mask, and computes the same as for the sequence alone.

Shapes: B sequences of a pack, C channels and K width of the convolution, H heads, P head size, N state size; V heads
of keys and values, S positions held, A their size, T new positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from worker.errors import ProtocolError
from worker.footprint import GROWTH
from worker.model.snapshots import Snapshot
from worker.spec import AttentionSpec, MambaSpec, Mixer


@dataclass(slots=True, eq=False)
class Pack:
    """The Mamba states of sequences that step together, one entry a layer.

    `tails` are the last K - 1 inputs of the convolution, [B, K-1, C] in the activation dtype; `states` are
    [B, H, P, N] float32.
    """

    requests: tuple[int, ...]
    tails: list[mx.array]
    states: list[mx.array]

    @property
    def arrays(self) -> list[mx.array]:
        """All arrays of the pack."""
        return [*self.tails, *self.states]

    def take(self, rows: list[int]) -> "Pack":
        """A new pack of these rows: copies, so that the memory of the others can be freed."""
        indices = mx.array(rows)
        return Pack(
            tuple(self.requests[row] for row in rows),
            [mx.take(a, indices, axis=0) for a in self.tails],
            [mx.take(a, indices, axis=0) for a in self.states],
        )


class KeyValues:
    """Keys and values of one sequence in one layer, written in place: MLX reuses a buffer that nobody else holds."""

    __slots__ = ("keys_1VSA", "length", "values_1VSA")

    def __init__(self, spec: AttentionSpec, dtype: mx.Dtype) -> None:
        empty = mx.zeros((1, spec.num_kv_heads, 0, spec.head_dim), dtype)
        self.keys_1VSA, self.values_1VSA, self.length = empty, empty, 0

    def begin(self, keys_1VSA: mx.array, values_1VSA: mx.array) -> None:
        """Goes on from those of a snapshot: `append` grows them first, to the size that they would have had anyway."""
        self.keys_1VSA, self.values_1VSA, self.length = keys_1VSA, values_1VSA, keys_1VSA.shape[2]

    def append(self, keys_1VTA: mx.array, values_1VTA: mx.array) -> tuple[mx.array, mx.array]:
        """Adds T positions; returns all keys and values so far."""
        first, self.length = self.length, self.length + keys_1VTA.shape[2]
        if self.length > self.keys_1VSA.shape[2]:
            self.keys_1VSA = self._grow(self.keys_1VSA, first)
            self.values_1VSA = self._grow(self.values_1VSA, first)
        self.keys_1VSA[:, :, first : self.length] = keys_1VTA
        self.values_1VSA[:, :, first : self.length] = values_1VTA
        return self.keys_1VSA[:, :, : self.length], self.values_1VSA[:, :, : self.length]

    def _grow(self, held_1VSA: mx.array, used: int) -> mx.array:
        _, heads, _, size = held_1VSA.shape
        room = -(-self.length // GROWTH) * GROWTH - used
        return mx.concatenate([held_1VSA[:, :, :used], mx.zeros((1, heads, room, size), held_1VSA.dtype)], axis=2)


@dataclass(frozen=True, slots=True)
class Span:
    """The rows [start, end) of one request in a step, and its keys and values, one entry an attention layer."""

    request: int
    start: int
    end: int
    caches: list[KeyValues]


@dataclass(frozen=True, slots=True)
class Step:
    """The rows of one step and the state they advance.

    `spans` covers all rows in order. Requests with one row go through the Mamba layers together: rows `single`, pack
    `batch` (None if there are none); each with more rows goes alone: `scans`.
    """

    spans: tuple[Span, ...]
    single: tuple[int, ...]
    batch: Pack | None
    scans: tuple[tuple[Span, Pack], ...]


class StageState:
    """State of every open sequence for a run of layers. Not thread-safe: it belongs to the compute thread."""

    def __init__(self, layers: Sequence[Mixer], dtype: mx.Dtype) -> None:
        self._mamba = [layer for layer in layers if isinstance(layer, MambaSpec)]
        self._attention = [layer for layer in layers if isinstance(layer, AttentionSpec)]
        self._dtype = dtype
        self._caches: dict[int, list[KeyValues]] = {}
        self._packs: dict[int, Pack] = {}  # by request; members of a pack share one object
        self._pending: list[Pack | KeyValues] = []

    @property
    def sequences(self) -> int:
        """Number of open sequences."""
        return len(self._caches)

    @property
    def nbytes(self) -> int:
        """Bytes of all state."""
        packs = {id(pack): pack for pack in self._packs.values()}.values()
        caches = [cache for caches in self._caches.values() for cache in caches]
        return sum(a.nbytes for pack in packs for a in pack.arrays) + sum(
            c.keys_1VSA.nbytes + c.values_1VSA.nbytes for c in caches
        )

    def open(self, request: int, start: Snapshot | None = None) -> None:
        """Begins a sequence, at its first position or where `start` was taken. Memory is taken at its first step."""
        if request in self._caches:
            raise ProtocolError(f"request {request} is already open on this stage")
        caches = self._caches[request] = [KeyValues(spec, self._dtype) for spec in self._attention]
        if start is None:
            return
        for cache, keys_1VSA, values_1VSA in zip(caches, start.keys, start.values, strict=True):
            cache.begin(keys_1VSA, values_1VSA)
        if self._mamba:
            self._packs[request] = Pack((request,), list(start.tails), list(start.states))

    def snapshot(self, request: int, position: int) -> Snapshot:
        """A copy of a sequence's state, which is at `position`, for evaluation; no step disturbs it or is disturbed."""
        if request not in self._caches:
            raise ProtocolError(f"request {request} is not open on this stage")
        pack, caches = self._packs.get(request) or self._fresh(request), self._caches[request]
        row = pack.take([pack.requests.index(request)])
        return Snapshot(
            position,
            row.tails,
            row.states,
            [mx.contiguous(cache.keys_1VSA[:, :, :position]) for cache in caches],
            [mx.contiguous(cache.values_1VSA[:, :, :position]) for cache in caches],
        )

    def close(self, request: int) -> None:
        """Forgets a sequence and frees its memory; a request that is not open is ignored."""
        caches = self._caches.pop(request, [])
        pack = self._packs.pop(request, None)
        if pack is not None:
            self._keep(pack, without=(request,))
        # what waits to be evaluated must not keep alive what nobody needs any more
        live = set(map(id, self._packs.values()))
        self._pending = [
            part for part in self._pending if (part not in caches if isinstance(part, KeyValues) else id(part) in live)
        ]

    def begin(self, segments: Sequence[tuple[int, int]]) -> Step:
        """Lays out a step of `(request, count)` segments, each request once.

        The caller runs every layer on the step before it begins the next one.
        """
        counts = dict(segments)
        if len(counts) < len(segments):
            raise ProtocolError(f"a request appears twice in one step: {[request for request, _ in segments]}")
        for request, count in segments:
            if count < 1:
                raise ProtocolError(f"request {request} has {count} rows in a step, the least is 1")
            if request not in self._caches:
                raise ProtocolError(f"request {request} is not open on this stage")
        spans, start = [], 0
        for request, count in segments:
            self._pending += self._caches[request]
            spans.append(Span(request, start, start + count, self._caches[request]))
            start += count
        single = [span for span in spans if span.end - span.start == 1]
        batch = self._pack(tuple(span.request for span in single)) if single and self._mamba else None
        scans = [(span, self._pack((span.request,))) for span in spans if span.end - span.start > 1 and self._mamba]
        return Step(tuple(spans), tuple(span.start for span in single), batch, tuple(scans))

    def pending(self) -> list[mx.array]:
        """The arrays that changed since the last call: evaluate them with the step's output, or graphs pile up."""
        changed = list(dict.fromkeys(self._pending))
        self._pending.clear()
        live = set(map(id, self._packs.values()))
        arrays = []
        for part in changed:
            if isinstance(part, KeyValues):
                arrays += [part.keys_1VSA, part.values_1VSA]
            elif id(part) in live:
                arrays += part.arrays
        return arrays

    def _pack(self, requests: tuple[int, ...]) -> Pack:
        """The pack of exactly these requests in this order, made from where their states are now."""
        sources = list({id(p): p for p in (self._packs.get(r) or self._fresh(r) for r in requests)}.values())
        if len(sources) == 1 and sources[0].requests == requests:
            pack = sources[0]
        else:
            pack = _join(sources)
            if pack.requests != requests:
                pack = pack.take([pack.requests.index(request) for request in requests])
            for source in sources:
                self._keep(source, without=requests)
        self._packs.update(dict.fromkeys(requests, pack))
        self._pending.append(pack)
        return pack

    def _keep(self, pack: Pack, without: Sequence[int]) -> None:
        """Moves the other members of a pack into one of their own."""
        rows = [row for row, request in enumerate(pack.requests) if request not in without]
        if rows:
            rest = pack.take(rows)
            self._packs.update(dict.fromkeys(rest.requests, rest))
            self._pending.append(rest)

    def _fresh(self, request: int) -> Pack:
        """A pack of one sequence before its first position."""
        return Pack(
            (request,),
            [mx.zeros((1, m.conv_kernel - 1, m.conv_size), self._dtype) for m in self._mamba],
            [mx.zeros((1, m.num_heads, m.head_dim, m.state_size), mx.float32) for m in self._mamba],
        )


def _join(packs: Sequence[Pack]) -> Pack:
    if len(packs) == 1:
        return packs[0]
    return Pack(
        tuple(request for pack in packs for request in pack.requests),
        [mx.concatenate(list(arrays)) for arrays in zip(*(pack.tails for pack in packs), strict=True)],
        [mx.concatenate(list(arrays)) for arrays in zip(*(pack.states for pack in packs), strict=True)],
    )
