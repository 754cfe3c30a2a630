"""How long pieces of a prompt take here, by their size."""

from operator import attrgetter

from worker.protocol import BLOCK, PieceTime

WEIGHT = 0.25  # of the latest piece


class PieceTimes:
    """Written by the compute thread; `latest`, the smallest size first, is replaced as a whole.

    Sizes between two powers of two times BLOCK count as one, and running means of rows and seconds are kept of them.
    A process's first piece of a size counts only until there is a second one: kernels are compiled on their first use.
    """

    def __init__(self) -> None:
        self.latest: tuple[PieceTime, ...] = ()
        self._by_size: dict[int, PieceTime] = {}
        self._again: set[int] = set()  # sizes that were computed more than once

    def heard(self, rows: int, seconds: float) -> None:
        """A step has computed `rows` rows of a prompt; fewer than BLOCK tell nothing."""
        if rows < BLOCK:
            return
        size = (rows // BLOCK).bit_length()
        before = self._by_size.get(size)
        if before is None or size not in self._again:
            self._by_size[size] = PieceTime(float(rows), seconds)
            if before is not None:
                self._again.add(size)
        else:
            self._by_size[size] = PieceTime(
                before.rows + (rows - before.rows) * WEIGHT, before.seconds + (seconds - before.seconds) * WEIGHT
            )
        self.latest = tuple(sorted(self._by_size.values(), key=attrgetter("rows")))
