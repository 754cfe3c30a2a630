"""What stage 0 runs next: prefill chunks and decode steps, within the leases that the coordinator granted.

Values in, values out: no sockets, no MLX, and the time is passed in. With leases the ring runs by itself, so the
coordinator is never between two tokens.
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from worker.protocol import Chunk, Lease, Open, Segment, Tokens, requests_of


class Step(msgspec.Struct, frozen=True):
    """One step of the pipeline. `tokens` holds the ids of all rows, or None: those that the batch sampled last.

    What it needs has been here `since`. After it a snapshot is taken under the name `save`, if there is one. With a
    piece of a prompt, `batches` are those that decode.
    """

    batch: int | None
    segments: tuple[Segment, ...]
    tokens: tuple[int, ...] | None
    since: float
    save: str | None = None
    batches: tuple[int, ...] = ()


@dataclass(slots=True)
class _Sequence:
    limit: int
    position: int = 0  # of the next token to feed
    token: int | None = None  # at `position`, once it is known
    finished: bool = False


@dataclass(slots=True)
class _Batch:
    members: tuple[int, ...]
    steps: int
    since: float = 0.0  # when its last tokens came, or the lease that it waited for
    flying: deque[tuple[Segment, ...]] = field(default_factory=deque[tuple[Segment, ...]])


class Driver:
    """Chooses steps. `run_ahead`: how many decode steps of a batch may start before their tokens are known here.

    That is 1 where one stage does everything, since the tokens are on its device already, and 0 otherwise.
    """

    def __init__(self, *, run_ahead: int) -> None:
        self._run_ahead = run_ahead
        self._sequences: dict[int, _Sequence] = {}
        self._batches: dict[int, _Batch] = {}
        self._prompts: dict[int, deque[tuple[Chunk, float]]] = {}
        self._owed: set[int] = set()  # batches that were active at the last chunk and have made no step since

    def open(self, message: Open) -> None:
        """A request begins."""
        self._sequences[message.request] = _Sequence(limit=message.limit)

    def chunk(self, message: Chunk, now: float) -> None:
        """Queue a piece of a prompt."""
        if message.request in self._sequences:
            self._prompts.setdefault(message.request, deque()).append((message, now))

    def lease(self, message: Lease, now: float) -> None:
        """Replace a batch's members and remaining steps, from its next step on."""
        batch = self._batches.setdefault(message.batch, _Batch((), 0))
        batch.members = message.requests
        batch.steps = message.steps
        if not batch.flying:
            batch.since = now

    def close(self, request: int) -> None:
        """A request is over or cancelled: none of its rows will run again."""
        self._sequences.pop(request, None)
        self._prompts.pop(request, None)

    def tokens(self, message: Tokens, now: float) -> None:
        """The last stage sampled these. A repeated message changes nothing."""
        batch = self._batches.get(message.batch) if message.batch is not None else None
        if batch is not None:
            fed = [(sampled.request, sampled.position - 1) for sampled in message.tokens]
            if not batch.flying or [(segment.request, segment.first) for segment in batch.flying[0]] != fed:
                return
            batch.flying.popleft()
            batch.since = now
        for sampled in message.tokens:
            sequence = self._sequences.get(sampled.request)
            if sequence is None:
                continue
            if sampled.finish is not None:
                sequence.finished = True
            if sampled.position == sequence.position:
                sequence.token = sampled.token

    def has_work(self) -> bool:
        """Whether `next` would return a step."""
        return self._takes_chunk() or any(self._ready(number) is not None for number in self._batches)

    def next(self) -> Step | None:
        """The next step, or None: nothing can start before more is known.

        Between two chunks every batch makes a step, so that no token waits for more than one chunk, whatever the number
        of batches. Prompts take turns, so that a short one does not wait for a long one's end.
        """
        if self._takes_chunk():
            self._owed = set(filter(self._is_active, self._batches))
            return self._prefill()
        for number in list(self._batches):
            step = self._decode(number)
            if step is not None:
                self._batches[number] = self._batches.pop(number)  # the other batches come first next time
                self._owed.discard(number)
                return step
        return None

    def _takes_chunk(self) -> bool:
        """Whether a chunk is next. If it has to wait for the tokens of a batch, nothing is: they would find the stage
        busy."""
        return bool(self._prompts) and not any(map(self._is_active, self._owed))

    def _is_active(self, number: int) -> bool:
        """Whether the batch will make a step as soon as it knows its tokens."""
        batch = self._batches[number]
        return batch.steps > 0 and any(map(self._can_feed, batch.members))

    def _prefill(self) -> Step:
        request = next(iter(self._prompts))
        chunks = self._prompts.pop(request)
        chunk, since = chunks.popleft()
        if chunks:
            self._prompts[request] = chunks  # behind the others
        self._sequences[chunk.request].position = chunk.first + len(chunk.tokens)
        segment = Segment(chunk.request, chunk.first, len(chunk.tokens), chunk.final)
        return Step(None, (segment,), chunk.tokens, since, chunk.save, tuple(self._owed))

    def _ready(self, number: int) -> tuple[int, ...] | None:
        """The members that the batch's next step feeds, or None if it cannot start yet."""
        batch = self._batches[number]
        if batch.steps < 1 or len(batch.flying) > self._run_ahead:
            return None
        members = tuple(request for request in batch.members if self._can_feed(request))
        if not members:
            return None
        if batch.flying:  # their tokens are on the device, if they are the very rows that are being sampled
            return members if requests_of(batch.flying[-1]) == members else None
        return members if all(self._sequences[request].token is not None for request in members) else None

    def _decode(self, number: int) -> Step | None:
        members = self._ready(number)
        if members is None:
            return None
        batch = self._batches[number]
        sequences = [self._sequences[request] for request in members]
        tokens = None if batch.flying else tuple(s.token for s in sequences if s.token is not None)
        segments = tuple(Segment(r, s.position, 1, True) for r, s in zip(members, sequences, strict=True))
        for sequence in sequences:
            sequence.position += 1
            sequence.token = None
        batch.steps -= 1
        batch.flying.append(segments)
        return Step(number, segments, tokens, batch.since)

    def _can_feed(self, request: int) -> bool:
        sequence = self._sequences.get(request)
        return sequence is not None and not sequence.finished and sequence.position + 1 < sequence.limit
