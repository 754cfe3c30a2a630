"""Seconds of a decode step by kind of layer, from steps that are measured now and then. Pure: time is passed in.

A measured step evaluates after every layer, which makes it longer. What that costs is bounded by itself: after one that
took e seconds longer than the median, none is measured for 1000 * e seconds.
"""

from collections.abc import Mapping

KINDS = {"M": "mamba", "E": "moe", "*": "attention", "-": "mlp"}  # by the letter of a pattern
ENDS = "ends"  # embedding, final norm, head, sampler

LEAST_STEPS = 16  # before there is a median worth the name
LEAST_SECONDS = 1.0
COST = 1000


class LayerTimes:
    """Totals by kind, and when the next step is measured."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.steps = 0
        self._due = 0.0

    def is_due(self, decodes: int, now: float) -> bool:
        """Whether to measure the next decode step, after so many of them."""
        return now >= self._due and decodes >= LEAST_STEPS

    def measured(self, seconds: Mapping[str, float], *, compute: float, median: float, now: float) -> None:
        """A step was measured; it took `compute` seconds, and steps like it take `median`."""
        self.seconds = {kind: self.seconds.get(kind, 0.0) + more for kind, more in seconds.items()}
        self.steps += 1
        self._due = now + max(COST * (compute - median), LEAST_SECONDS)
