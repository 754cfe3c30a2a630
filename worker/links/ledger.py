"""Which positions a stage has applied: the rule that no row is lost, repeated or crossed. Pure.

A Mamba state, unlike a key/value cache, is corrupted by applying a token twice. So a stage applies a message only if
the first position of every segment is the next one of its request. Rows that were all applied before are dropped; a row
too far ahead, or a mixture, means that something was lost.
"""

from collections.abc import Sequence
from typing import Literal

from worker.protocol import Segment

Verdict = Literal["apply", "duplicate", "gap", "unknown"]


class Ledger:
    """The next position of every open request."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}

    def open(self, request: int, first: int = 0) -> None:
        """A request begins at position `first`."""
        self._next[request] = first

    def position(self, request: int) -> int | None:
        """The next position of a request, None if it is not open."""
        return self._next.get(request)

    def close(self, request: int) -> None:
        """A request is over."""
        self._next.pop(request, None)

    def judge(self, segments: Sequence[Segment]) -> Verdict:
        """What to do with a message of these segments."""
        if any(segment.request not in self._next for segment in segments):
            return "unknown"
        ahead = [segment.first - self._next[segment.request] for segment in segments]
        if not any(ahead):
            return "apply"
        return "duplicate" if max(ahead) < 0 else "gap"

    def advance(self, segments: Sequence[Segment]) -> None:
        """The segments are being applied."""
        for segment in segments:
            self._next[segment.request] = segment.first + segment.count
