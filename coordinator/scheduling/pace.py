"""How many tokens of a prompt the stages take at a time, from how long earlier pieces took. Pure.

A large piece holds up running answers, or the next prompt, for as long as the slowest stage computes it, and the stages
behind wait for its end. A small one costs more a token: it reads nearly all of the weights too. So `beside` answers a
piece is the largest that the slowest stage computes within `decode_pause` seconds, or a larger one if that takes hardly
longer. While there are no answers it may take `prefill_pause` seconds, and the size is the one that brings the end of
the prompt soonest. Sizes are BLOCK times powers of two, and `most`.

Tokens do not depend on them where MLX computes rows one by one: the scan works in blocks of BLOCK rows, and cutting
between blocks changes nothing that it computes.
"""

from collections.abc import Sequence
from itertools import pairwise

from worker.protocol import BLOCK, PieceTime

SPARE = 0.75  # of a pause: a larger size is taken only if it needs less, so that noise does not move it to and fro
HARDLY = 1 / 3  # of the seconds that as many rows more would take in proportion
FIXED = 0.5  # of a piece's time is taken for independent of its rows, where sizes of interest were not measured yet


class Pace:
    """The sizes of the next pieces. A stage that was not measured counts as fast enough."""

    def __init__(self, *, most: int, decode_pause: float, prefill_pause: float) -> None:
        self.beside = most
        self.sizes = [*(BLOCK << step for step in range(32) if BLOCK << step < most), most]
        self._decode_pause = decode_pause
        self._prefill_pause = prefill_pause
        self._times: dict[int, Sequence[PieceTime]] = {}  # by stage

    def heard(self, stage: int, times: Sequence[PieceTime]) -> None:
        """What pieces took on the stage, the smallest first."""
        if times and times != self._times.get(stage):
            self._times[stage] = times
            self.beside = self._beside()

    def forget(self, stage: int) -> None:
        """Another process, perhaps elsewhere, will run the stage."""
        self._times.pop(stage, None)

    def alone(self, rows: int, stages: int) -> int:
        """For `rows` rows of a prompt, while nothing is answered."""
        if not self._times:
            return self.sizes[-1]
        within = [size for size in self.sizes if self._seconds(size, FIXED) <= self._prefill_pause]

        def seconds(size: int) -> float:
            """Until its end comes out of the last stage, if the stages are alike."""
            whole, rest = divmod(rows, size)
            pieces = whole * self._seconds(size, FIXED) + (self._seconds(rest, FIXED) if rest else 0.0)
            return pieces + (stages - 1) * self._seconds(min(size, rows), FIXED)

        return max(self.beside, min(within, key=seconds, default=self.sizes[0]))

    def _beside(self) -> int:
        best = self.sizes[0]
        for size in self.sizes[1:]:
            seconds = self._seconds(size)
            limit = self._decode_pause * (1.0 if size <= self.beside else SPARE)
            if seconds > max(limit, self._seconds(best) * (1 + (size / best - 1) * HARDLY)):
                break
            best = size
        return best

    def _seconds(self, rows: int, fixed: float = 0.0) -> float:
        return max(_interpolated(_plausible(times), rows, fixed) for times in self._times.values())


def _plausible(times: Sequence[PieceTime]) -> list[PieceTime]:
    """Without what one slow step has left: more rows never take less, nor more than their share of fewer."""
    return [
        PieceTime(one.rows, min(other.seconds * max(1.0, one.rows / other.rows) for other in times)) for one in times
    ]


def _interpolated(times: Sequence[PieceTime], rows: int, fixed: float) -> float:
    """Beyond the sizes that were measured in proportion, but for a `fixed` share."""
    for below, above in pairwise(times):
        if below.rows <= rows <= above.rows:
            share = (rows - below.rows) / (above.rows - below.rows)
            return below.seconds + share * (above.seconds - below.seconds)
    nearest = times[0] if rows < times[0].rows else times[-1]
    return nearest.seconds * (fixed + (1 - fixed) * rows / nearest.rows)
