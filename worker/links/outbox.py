"""What leaves a stage for the next one: in order, but a piece of a prompt lets decode steps behind it go first.

A stage computes a piece for much longer than a decode step, so a step right behind a piece would wait for it again on
every stage that follows. Therefore a piece is held until every batch that decodes has made a step here. Then all stages
compute their pieces at about the same time, and the steps between them: a token waits for one piece on its way and not
for one on every stage. Rows of different requests may change places: only those of one request have to stay in order,
and no request prefills and decodes at once.
"""

from collections.abc import Callable

from msgspec.structs import replace

from worker.protocol import Activations, Close, Drop, Open, Save


class Outbox:
    """Holds back at most one piece; `send` hands a message over and returns when the next stage could have it."""

    def __init__(self, send: Callable[..., float]) -> None:
        self._send = send
        self._batch: dict[int, int] = {}  # of each request: where its last step was
        self._piece: tuple[Activations, memoryview] | None = None
        self._after: list[Open | Save | Drop] = []  # what has to come after the piece
        self._requests: set[int] = set()  # of all that is held
        self._owed: set[int] = set()  # batches whose step goes first

    def piece(self, header: Activations, payload: memoryview) -> None:
        """A piece of a prompt is computed."""
        self.flush()
        self._piece, self._owed = (header, payload), set(header.batches)
        self._requests = {segment.request for segment in header.segments}
        self._settle(set())

    def step(self, header: Activations, payload: memoryview) -> float:
        """A decode step is computed. Returns when the next stage could have it."""
        ended = self._send(header, payload)
        assert header.batch is not None
        left = {self._batch.get(segment.request, header.batch) for segment in header.segments}
        self._batch |= {segment.request: header.batch for segment in header.segments}
        self._settle({header.batch} | left - self._batches)
        return ended

    def message(self, message: Open | Save | Drop | Close) -> None:
        """Passed on in its turn."""
        held = self._piece is not None
        match message:
            case Open(request=request) if held:
                self._after.append(message)
                self._requests.add(request)
            case Drop() if held:
                self._after.append(message)
            case Save(request=request) if held and request in self._requests:
                self._after.append(message)
            case Close(request=request):
                if held and request in self._requests:
                    self.flush()
                self._send(message)
                self._batch.pop(request, None)
                # also one that has not stepped yet: this may have been its only request
                self._settle(self._owed - self._batches)
            case _:
                self.flush()
                self._send(message)

    def flush(self) -> None:
        """Send what is held back."""
        if self._piece is not None:
            (header, payload), after = self._piece, self._after
            self._piece, self._after = None, []
            # the next stage has heard of the end of the others, and nothing would end its wait for them
            batches = self._batches.intersection(header.batches)
            self._send(replace(header, batches=tuple(batches)), payload)
            for message in after:
                self._send(message)

    @property
    def _batches(self) -> set[int]:
        """Those with a request that has stepped and not ended."""
        return set(self._batch.values())

    def _settle(self, batches: set[int]) -> None:
        """These have stepped, or have no request left."""
        self._owed -= batches
        if not self._owed:
            self.flush()
