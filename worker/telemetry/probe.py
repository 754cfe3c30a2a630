"""Times one step by kind of layer. It waits for every layer's result, so such a step is longer than others."""

import time

import mlx.core as mx

from worker.telemetry.layer_times import ENDS, KINDS


class Probe:
    """For a stage of this `pattern`, from now on; `seconds` by kind."""

    def __init__(self, pattern: str) -> None:
        self._kinds = [KINDS[letter] for letter in pattern]
        self.seconds = dict.fromkeys([*dict.fromkeys(self._kinds), ENDS], 0.0)
        mx.synchronize()  # steps before this one
        self._last = time.monotonic()

    def __call__(self, place: int | None, *arrays: mx.array) -> None:
        """What was made since the last call belongs to the stage's layer `place`, or (None) to what is around them."""
        mx.eval(*arrays)
        now = time.monotonic()
        self.seconds[ENDS if place is None else self._kinds[place]] += now - self._last
        self._last = now
