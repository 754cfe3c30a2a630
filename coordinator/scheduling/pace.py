"""How many tokens of a prompt the stages take at a time, from how fast they were. Pure.

A piece of a prompt holds up the running answers for as long as the slowest stage computes it. So its size is the
largest power of two times BLOCK that the slowest stage computes within `pause` seconds, at most `most`.

Tokens do not depend on it where MLX computes rows one by one: the scan works in blocks of BLOCK rows, and cutting
between blocks changes nothing that it computes.
"""

from worker.protocol import BLOCK

SPARE = 0.75  # of the pause: a larger size is taken only if it needs less, so that noise does not move it to and fro


class Pace:
    """The size for the next prompt. A stage that was not measured yet counts as fast enough."""

    def __init__(self, *, most: int, pause: float) -> None:
        self.size = most
        self._most = most
        self._pause = pause
        self._totals: dict[int, tuple[int, float]] = {}
        self._seconds: dict[int, float] = {}  # a row, by stage

    def heard(self, stage: int, rows: int, seconds: float) -> None:
        """What the stage has computed in all, in pieces of at least BLOCK rows."""
        rows_before, seconds_before = self._totals.get(stage, (0, 0.0))
        self._totals[stage] = (rows, seconds)
        if rows <= rows_before:
            return
        latest = (seconds - seconds_before) / (rows - rows_before)
        self._seconds[stage] = (self._seconds.get(stage, latest) + latest) / 2
        slowest = max(self._seconds.values())
        sizes = [BLOCK << step for step in range(32) if BLOCK << step < self._most]
        fitting = [size for size in (*sizes, self._most) if size * slowest <= self._limit(size)]
        self.size = fitting[-1] if fitting else min(BLOCK, self._most)

    def forget(self, stage: int) -> None:
        """Another process, perhaps elsewhere, will run the stage."""
        self._totals.pop(stage, None)
        self._seconds.pop(stage, None)

    def _limit(self, size: int) -> float:
        return self._pause if size <= self.size else self._pause * SPARE
