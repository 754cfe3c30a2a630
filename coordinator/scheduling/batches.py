"""Which sequences step together, and how many steps they are still allowed. Pure.

As many batches as stages are in flight, so that no stage waits while another one works. (One more would also fill the
time of the hops, but with smaller batches: simulated, it pays only where a hop takes half as long as a step.) A batch
has at most 8 members, which is what the fused kernels take at once; more sequences make more batches. When sequences
leave, others change batch, so that the batches stay even: a stage that has nothing to do while another one has two
batches' work is lost.
"""

MOST_MEMBERS = 8


class Batches:
    """Members and leases. `stages` batches fill first; there are enough for `most` sequences in all."""

    def __init__(self, *, stages: int, most: int, lease: int) -> None:
        self._stages = stages
        self._lease = lease
        rounds = -(-most // (stages * MOST_MEMBERS))
        self._members: list[list[int]] = [[] for _ in range(stages * rounds)]
        self._granted = [0] * len(self._members)
        self._batch: dict[int, int] = {}
        self._changed: set[int] = set()

    def clear(self) -> None:
        """Nobody steps any more."""
        for members in self._members:
            members.clear()
        self._batch.clear()
        self._changed.clear()
        self._granted = [0] * len(self._granted)

    @property
    def members(self) -> tuple[tuple[int, ...], ...]:
        """The members of each batch."""
        return tuple(map(tuple, self._members))

    def join(self, request: int) -> None:
        """The request decodes from now on, in the smallest batch."""
        self._put(request, self._smallest())

    def leave(self, request: int) -> None:
        """The request is over; nothing happens if it has not joined."""
        batch = self._batch.pop(request, None)
        if batch is not None:
            self._members[batch].remove(request)  # the stages learn it from its Close
            self._level()

    def stepped(self, batch: int) -> None:
        """The batch has made a step. At half time its lease is due for renewal."""
        self._granted[batch] -= 1
        if self._granted[batch] <= self._lease // 2:
            self._changed.add(batch)

    def grants(self) -> list[tuple[int, tuple[int, ...]]]:
        """The batches that need a new lease, with their members; they are taken for granted it."""
        due = [(batch, tuple(self._members[batch])) for batch in sorted(self._changed) if self._members[batch]]
        for batch, _ in due:
            self._granted[batch] = self._lease
        self._changed.clear()
        return due

    def _smallest(self) -> int:
        """The batch to join: of the first ones, one a stage, the smallest; of further ones only if these are full."""
        full = [len(members) // MOST_MEMBERS for members in self._members]
        order = range(len(self._members))
        return min(order, key=lambda batch: (full[batch], self._round(batch), len(self._members[batch])))

    def _round(self, batch: int) -> int:
        return batch // self._stages

    def _level(self) -> None:
        """One sequence left: at most one other has to move."""
        used = [batch for batch, members in enumerate(self._members) if members]
        if not used:
            return
        source = max(used, key=lambda batch: (self._round(batch), len(self._members[batch])))
        target = self._smallest()
        earlier = self._round(source) - self._round(target)
        uneven = len(self._members[source]) - len(self._members[target]) > 1
        if len(self._members[target]) < MOST_MEMBERS and (earlier > 0 or (earlier == 0 and uneven)):
            # it steps in its new batch as soon as its last token of the old one is known
            request = self._members[source].pop()
            self._changed.add(source)
            self._put(request, target)

    def _put(self, request: int, batch: int) -> None:
        self._members[batch].append(request)
        self._batch[request] = batch
        self._changed.add(batch)
