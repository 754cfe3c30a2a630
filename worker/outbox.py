"""What leaves a stage for the next one: in order, but a piece of a prompt lets decode steps behind it go first.

A stage computes a piece for much longer than a decode step, so a step right behind a piece would wait for it again on
every stage that follows. Therefore a piece is held until every batch has made a step here. Then all stages compute
their pieces at about the same time, and the steps between them: a token waits for one piece on its way and not for one
on every stage. Rows of different requests may change places: only those of one request have to stay in order, and no
request prefills and decodes at once.
"""

from collections.abc import Callable

from msgspec.structs import replace

from worker.protocol import Activations, Close, Drop, Open, Save


class Outbox:
    """Holds back at most one piece; `send` hands a message over and returns when the next stage could have it."""

    def __init__(self, send: Callable[..., float]) -> None:
        self._send = send
        self._piece: tuple[Activations, memoryview] | None = None
        self._after: list[Open | Save | Drop] = []  # what has to come after the piece
        self._requests: set[int] = set()  # of all that is held
        self._steps = 0  # that go first
        self._closed = 0  # requests that went first: the next stage hears of their end before it has the piece

    def piece(self, header: Activations, payload: memoryview) -> None:
        """A piece of a prompt is computed."""
        self.flush()
        self._piece, self._steps = (header, payload), header.batches
        self._requests = {segment.request for segment in header.segments}
        if not self._steps:
            self.flush()

    def step(self, header: Activations, payload: memoryview) -> float:
        """A decode step is computed. Returns when the next stage could have it."""
        ended = self._send(header, payload)
        self._passed()
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
            case Close(request=request) if held and request not in self._requests:
                self._send(message)
                self._closed += 1
                self._passed()
            case _:
                self.flush()
                self._send(message)

    def flush(self) -> None:
        """Send what is held back."""
        if self._piece is not None:
            (header, payload), after, closed = self._piece, self._after, self._closed
            self._piece, self._after, self._closed = None, [], 0
            self._send(replace(header, batches=max(header.batches - closed, 0)), payload)
            for message in after:
                self._send(message)

    def _passed(self) -> None:
        # it does not wait in vain: a batch goes on stepping until the Close of its last member, which counts as well
        self._steps -= 1
        if self._steps < 1:
            self.flush()
