"""Which request runs when: admission, prompts in pieces, decode leases, deadlines. Pure: no sockets, no MLX, and the
time is passed in.

Requests are admitted in the order of their arrival, by count and by the memory that they will need on every stage at
their very end. What is admitted prefills piece by piece, in turn with the other prompts (`worker.driver`), and then
joins a batch.
"""

from dataclasses import dataclass, field

import msgspec

from coordinator.request import Request, Token
from coordinator.scheduling.batches import Batches
from coordinator.scheduling.budget import Budget, Room
from coordinator.scheduling.departures import Departures
from coordinator.scheduling.edges import pieces
from coordinator.scheduling.pace import Pace
from coordinator.scheduling.prefixes import Prefixes
from worker.errors import DeadlineError, NoRoomError, QueueFullError, StagelineError
from worker.protocol import Chunk, Close, Drop, Lease, Message, Open, Save, Saved, Tokens

Failures = list[tuple[int, StagelineError]]


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of what is taken: sequences that the stages hold, requests that wait for a place, and seconds from its
    arrival until a request must have a place and until its end."""

    max_running: int
    max_waiting: int
    queue_timeout: float
    request_timeout: float


@dataclass(slots=True)
class _Entry:
    request: Request
    arrived: float
    position: int  # of the next token to come
    decodes: bool = False
    cached: int = 0  # tokens of the prompt that a snapshot had seen
    answer: list[int] = field(default_factory=list[int])

    @property
    def generated(self) -> int:
        return self.position - len(self.request.prompt)


class Scheduler:
    """All requests that have not ended. Methods return the messages for stage 0, in order.

    `lease`: decode steps that stage 0 may run before it must hear from here again.
    """

    def __init__(self, *, stages: int, lease: int, bounds: Bounds, budget: Budget, pace: Pace) -> None:
        self.epoch = 0  # no stage runs
        self.pace = pace
        self.prefixes = Prefixes()
        self._lease = lease
        self._bounds = bounds
        self._budget = budget
        self._batches = Batches(stages=stages, most=bounds.max_running, lease=lease)
        self._departures = Departures()
        self._waiting: dict[int, _Entry] = {}
        self._running: dict[int, _Entry] = {}
        self._closing: set[int] = set()

    @property
    def running(self) -> int:
        """Sequences that the stages hold."""
        return len(self._running) + len(self._closing)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    def holds(self, number: int) -> bool:
        """Whether the request waits, runs, or has ended but not yet left every stage."""
        return number in self._waiting or number in self._running or number in self._closing

    def begin(self, epoch: int, rooms: tuple[Room, ...]) -> tuple[Failures, list[Message]]:
        """All stages are linked, with room for the state of sequences in `rooms`: run what waits.

        What waited for other stages, and does not fit into these, fails.
        """
        self.epoch = epoch
        self._budget.begin(rooms)
        failures: Failures = []
        for number, entry in list(self._waiting.items()):
            if (reason := self._budget.refusal(_positions(entry.request))) is not None:
                del self._waiting[number]
                failures.append((number, NoRoomError(reason, param="max_tokens")))
        return failures, self._admit()

    def halt(self) -> list[int]:
        """The epoch is over: the stages forget all sequences. Returns the requests that were running."""
        lost = list(self._running)
        self.epoch = 0
        self._running.clear()
        self._closing.clear()
        self._batches.clear()
        self.prefixes.halt()
        return lost

    def submit(self, number: int, request: Request, now: float) -> list[Message]:
        """A new request; `number` is its name on the wire.

        Raises NoRoomError if it could never run, QueueFullError if too many wait already.
        """
        if (reason := self._budget.refusal(_positions(request))) is not None:
            longest = (self._budget.most or 0) + 1 - len(request.prompt)
            if not request.open_ended or longest < 1:
                raise NoRoomError(reason, param="max_tokens")
            request = msgspec.structs.replace(request, max_tokens=longest)
        self._waiting[number] = _Entry(request, now, len(request.prompt))
        orders = self._admit()
        if len(self._waiting) > self._bounds.max_waiting:
            del self._waiting[number]
            seconds = self._departures.seconds_until(max(self.waiting, 1), now)
            raise QueueFullError(
                f"{self.running} requests are running and {self.waiting} wait, which is the limit (max_waiting); "
                f"try again in {seconds} s",
                retry_after=seconds,
            )
        return orders

    def misses(self, message: Tokens) -> bool:
        """Whether a token came without the one before it."""
        running = ((self._running.get(sampled.request), sampled.position) for sampled in message.tokens)
        return any(entry is not None and position > entry.position for entry, position in running)

    def sampled(self, message: Tokens) -> tuple[list[tuple[int, Token]], list[Message]]:
        """The last stage sampled tokens: what to deliver, what to send."""
        deliveries: list[tuple[int, Token]] = []
        orders: list[Message] = []
        repeated = False
        for sampled in message.tokens:
            entry = self._running.get(sampled.request)
            if entry is None:
                continue  # cancelled meanwhile
            if sampled.position < entry.position:
                repeated = True
                continue
            entry.position += 1
            cached = 0 if entry.answer else entry.cached
            entry.answer.append(sampled.token)
            deliveries.append((sampled.request, Token(sampled.token, sampled.finish, cached)))
            if sampled.finish is not None:
                orders += self._save_answer(sampled.request, entry)
                orders.append(self._end(sampled.request))
            elif not entry.decodes:
                entry.decodes = True
                self._batches.join(sampled.request)
        if message.batch is not None and not repeated:
            self._batches.stepped(message.batch)
        return deliveries, orders + self._leases()

    def cancel(self, number: int) -> list[Message]:
        """Nobody wants this request any more; nothing happens if it has ended."""
        if number in self._running:
            return [self._end(number), *self._leases()]
        # others may fit where the first one in the queue did not
        return self._admit() if self._waiting.pop(number, None) is not None else []

    def closed(self, number: int, now: float) -> list[Message]:
        """Every stage has freed this request's state: its place can be taken."""
        if number not in self._closing:
            return []
        self._closing.discard(number)
        self._budget.free(number)
        self.prefixes.closed(number)
        self._departures.ended(now)
        return self._admit()

    def saved(self, message: Saved) -> list[Message]:
        """Every stage holds a snapshot."""
        return self._drop(self.prefixes.saved(message.request, message.snapshot, message.nbytes))

    def expire(self, now: float) -> tuple[Failures, list[Message]]:
        """Ends what has waited or run for longer than it may."""
        bounds, failures, orders = self._bounds, Failures(), list[Message]()
        for number, entry in [*self._running.items(), *self._waiting.items()]:
            age = now - entry.arrived
            if age >= bounds.request_timeout:
                reason = (
                    f"not done after {age:.1f} s, the limit is {bounds.request_timeout:g} s (request_timeout): "
                    f"{entry.generated} of at most {entry.request.max_tokens} tokens were generated; ask for fewer"
                )
            elif age >= bounds.queue_timeout and number in self._waiting:
                reason = (
                    f"no place became free in {age:.1f} s, the limit is {bounds.queue_timeout:g} s (queue_timeout): "
                    f"{self.running} requests are running, {self.waiting} wait; try again later"
                )
            else:
                continue
            failures.append((number, DeadlineError(reason)))
            orders += self.cancel(number)
        return failures, orders

    def _save_answer(self, number: int, entry: _Entry) -> list[Message]:
        names, dropped = self.prefixes.finish(number, entry.answer)
        orders = self._drop(dropped)
        if names:
            orders.append(Save(epoch=self.epoch, request=number, first=entry.position - 1, names=names))
        return orders

    def _drop(self, names: list[str]) -> list[Message]:
        return [Drop(epoch=self.epoch, snapshot=name) for name in names]

    def _end(self, number: int) -> Message:
        del self._running[number]
        self._closing.add(number)
        self._batches.leave(number)
        return Close(epoch=self.epoch, request=number)

    def _leases(self) -> list[Message]:
        return [
            Lease(epoch=self.epoch, batch=batch, requests=members, steps=self._lease)
            for batch, members in self._batches.grants()
        ]

    def _admit(self) -> list[Message]:
        """Strictly by arrival: what does not fit now is not overtaken, or a stream of small ones could starve it."""
        orders: list[Message] = []
        while self.epoch and self._waiting and self.running < self._bounds.max_running:
            number, entry = next(iter(self._waiting.items()))
            if not self._budget.fits(_positions(entry.request)):
                break
            del self._waiting[number]
            self._budget.take(number, _positions(entry.request))
            self._running[number] = entry
            orders += self._prompt(number, entry)
        return orders

    def _prompt(self, number: int, entry: _Entry) -> list[Message]:
        request, prompt = entry.request, entry.request.prompt
        start = self.prefixes.start(number, prompt, request.marks, exact=request.repeatable)
        entry.cached = start.position
        orders: list[Message] = [
            Open(
                epoch=self.epoch,
                request=number,
                sampling=request.sampling,
                stop_tokens=request.stop_tokens,
                limit=len(prompt) + request.max_tokens,
                prompt=prompt if request.sampling.repetition_penalty != 1.0 else (),
                first=start.position,
                restore=start.snapshot,
            )
        ]
        for first, end in pieces(start.position, len(prompt), self.pace.size, start.edges):
            name, dropped = self.prefixes.save(number, end) if end in start.edges else (None, [])
            final = end == len(prompt)
            orders += self._drop(dropped)
            orders.append(
                Chunk(epoch=self.epoch, request=number, first=first, tokens=prompt[first:end], final=final, save=name)
            )
        return orders


def _positions(request: Request) -> int:
    """Positions that its sequence may take: all but the last token, which is sampled and never fed."""
    return len(request.prompt) + request.max_tokens - 1
