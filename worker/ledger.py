"""Which positions a stage has applied: the rule that no row is lost, repeated or crossed.

A Mamba state, unlike a key/value cache, is corrupted by applying a token twice. So a stage applies a message only if
its first position is the next one; an earlier one gets the remembered output again; a later one is a gap.
"""

from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

from worker.protocol import Segment, requests_of

Verdict = Literal["apply", "duplicate", "gap", "unknown"]
Output = TypeVar("Output")


class Ledger(Generic[Output]):
    """Next position of every open request, and the last output for each set of requests that stepped together."""

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._outputs: dict[tuple[int, ...], tuple[tuple[Segment, ...], Output]] = {}

    def clear(self) -> None:
        """Forget everything: a new epoch begins."""
        self._next.clear()
        self._outputs.clear()

    def open(self, request: int) -> None:
        """A request begins at position 0."""
        self._next[request] = 0

    def close(self, request: int) -> None:
        """A request is over; outputs that hold rows of it are forgotten."""
        self._next.pop(request, None)
        self._outputs = {key: value for key, value in self._outputs.items() if request not in key}

    def judge(self, segments: Sequence[Segment]) -> Verdict:
        """What to do with a message of these segments."""
        if any(segment.request not in self._next for segment in segments):
            return "unknown"
        ahead = [segment.first - self._next[segment.request] for segment in segments]
        if all(distance == 0 for distance in ahead):
            return "apply"
        return "gap" if any(distance > 0 for distance in ahead) else "duplicate"

    def advance(self, segments: Sequence[Segment]) -> None:
        """The segments are being applied."""
        for segment in segments:
            self._next[segment.request] = segment.first + segment.count

    def remember(self, segments: tuple[Segment, ...], output: Output) -> None:
        """Keep the output, in place of the last one of the same requests."""
        key = requests_of(segments)
        if all(request in self._next for request in key):
            self._outputs[key] = (segments, output)

    def recall(self, segments: tuple[Segment, ...]) -> Output | None:
        """The remembered output of exactly these segments."""
        kept = self._outputs.get(requests_of(segments))
        return kept[1] if kept is not None and kept[0] == segments else None
