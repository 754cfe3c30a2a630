"""Which request runs when: admission, prompt chunks, decode leases. Pure: no sockets, no clock, no MLX.

As many batches as stages are in flight, so that no stage waits while another one works; a request joins the smallest
batch when its prompt is done and stays there until it ends. A batch has at most 8 members, which is what the fused
kernels take at once; more requests make more batches.
"""

from collections import deque
from dataclasses import dataclass

from coordinator.request import Request, Token
from worker.protocol import Chunk, Close, Lease, Message, Open, Tokens

MOST_MEMBERS = 8


@dataclass(slots=True)
class _Running:
    position: int  # of the next token to come
    batch: int | None = None


class Scheduler:
    """All requests that have not ended. Methods return the messages for stage 0, in order.

    `chunk`: positions a prefill step; `lease`: decode steps that stage 0 may run before it must hear from here again;
    `max_running`: sequences whose state the stages hold at the same time.
    """

    def __init__(self, *, stages: int, chunk: int, lease: int, max_running: int) -> None:
        self.epoch = 0  # no stage runs
        self._chunk = chunk
        self._lease = lease
        self._max_running = max_running
        self._waiting: deque[tuple[int, Request]] = deque()
        self._running: dict[int, _Running] = {}
        self._closing: set[int] = set()
        self._stages = stages
        rounds = -(-max_running // (stages * MOST_MEMBERS))
        self._members: list[list[int]] = [[] for _ in range(stages * rounds)]
        self._granted = [0] * len(self._members)

    @property
    def running(self) -> int:
        """Sequences that the stages hold."""
        return len(self._running) + len(self._closing)

    @property
    def waiting(self) -> int:
        """Requests that wait for a place."""
        return len(self._waiting)

    def begin(self, epoch: int) -> list[Message]:
        """All stages are linked: run what waits."""
        self.epoch = epoch
        return self._admit()

    def halt(self) -> list[int]:
        """The epoch is over: the stages forget all sequences. Returns the requests that were running."""
        lost = list(self._running)
        self.epoch = 0
        self._running.clear()
        self._closing.clear()
        self._members = [[] for _ in self._members]
        self._granted = [0] * len(self._granted)
        return lost

    def submit(self, number: int, request: Request) -> list[Message]:
        """A new request; `number` is its name on the wire."""
        self._waiting.append((number, request))
        return self._admit()

    def misses(self, message: Tokens) -> bool:
        """Whether a token came without the one before it."""
        running = ((self._running.get(sampled.request), sampled.position) for sampled in message.tokens)
        return any(sequence is not None and position > sequence.position for sequence, position in running)

    def sampled(self, message: Tokens) -> tuple[list[tuple[int, Token]], list[Message]]:
        """The last stage sampled tokens: what to deliver, what to send."""
        deliveries: list[tuple[int, Token]] = []
        orders: list[Message] = []
        joined: set[int] = set()
        repeated = False
        for sampled in message.tokens:
            running = self._running.get(sampled.request)
            if running is None:
                continue  # cancelled meanwhile
            if sampled.position < running.position:
                repeated = True
                continue
            running.position += 1
            deliveries.append((sampled.request, Token(sampled.token, sampled.finish)))
            if sampled.finish is not None:
                orders += self._end(sampled.request)
            elif running.batch is None:
                running.batch = self._smallest()
                self._members[running.batch].append(sampled.request)
                joined.add(running.batch)
        if message.batch is not None and not repeated:
            self._granted[message.batch] -= 1
            if self._granted[message.batch] <= self._lease // 2:
                joined.add(message.batch)
        orders += [self._grant(batch) for batch in sorted(joined) if self._members[batch]]
        return deliveries, orders

    def cancel(self, number: int) -> list[Message]:
        """Nobody wants this request any more; nothing happens if it has ended."""
        if number in self._running:
            return self._end(number)
        self._waiting = deque(entry for entry in self._waiting if entry[0] != number)
        return []

    def closed(self, number: int) -> list[Message]:
        """Every stage has freed this request's state: its place can be taken."""
        self._closing.discard(number)
        return self._admit()

    def _smallest(self) -> int:
        """The batch to join: of the first ones, one a stage, the smallest; of further ones only if these are full."""
        full = [len(members) // MOST_MEMBERS for members in self._members]
        order = range(len(self._members))
        return min(order, key=lambda batch: (full[batch], batch // self._stages, len(self._members[batch])))

    def _end(self, number: int) -> list[Message]:
        running = self._running.pop(number)
        self._closing.add(number)
        if running.batch is not None:
            self._members[running.batch].remove(number)
        return [Close(epoch=self.epoch, request=number)]

    def _grant(self, batch: int) -> Message:
        self._granted[batch] = self._lease
        return Lease(epoch=self.epoch, batch=batch, requests=tuple(self._members[batch]), steps=self._lease)

    def _admit(self) -> list[Message]:
        orders: list[Message] = []
        while self.epoch and self._waiting and self.running < self._max_running:
            number, request = self._waiting.popleft()
            self._running[number] = _Running(len(request.prompt))
            orders += self._prompt(number, request)
        return orders

    def _prompt(self, number: int, request: Request) -> list[Message]:
        prompt = request.prompt
        orders: list[Message] = [
            Open(
                epoch=self.epoch,
                request=number,
                sampling=request.sampling,
                stop_tokens=request.stop_tokens,
                limit=len(prompt) + request.max_tokens,
                prompt=prompt if request.sampling.repetition_penalty != 1.0 else (),
            )
        ]
        for first in range(0, len(prompt), self._chunk):
            tokens = prompt[first : first + self._chunk]
            final = first + len(tokens) == len(prompt)
            orders.append(Chunk(epoch=self.epoch, request=number, first=first, tokens=tokens, final=final))
        return orders
