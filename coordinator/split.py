"""The even-cost split of a model's layers into contiguous stages. Pure."""

from collections.abc import Sequence
from itertools import pairwise

from worker.errors import ConfigError


def split(costs: Sequence[int], stages: int) -> tuple[tuple[int, int], ...]:
    """Layers [first, end) of each stage, so that the most expensive stage is as cheap as possible.

    `costs` has one number per layer. Every layer is in exactly one stage and every stage has at least one. Among
    equally good splits the one with the earliest cuts is taken. Dynamic programming, O(layers^2 * stages).

    Raises ConfigError if there are more stages than layers.
    """
    count = len(costs)
    if not 1 <= stages <= count:
        raise ConfigError(
            f"{stages} stages for {count} layers: every stage needs at least one; use --stages 1 to {count}",
            param="stages",
        )
    before = [0]
    for cost in costs:
        before.append(before[-1] + cost)
    # best[end]: (cost of the dearest stage, cuts) of the first `end` layers in the number of stages so far
    best: dict[int, tuple[int, tuple[int, ...]]] = {end: (before[end], (0,)) for end in range(1, count + 1)}
    for used in range(2, stages + 1):
        best = {
            end: min(
                (max(best[cut][0], before[end] - before[cut]), (*best[cut][1], cut)) for cut in range(used - 1, end)
            )
            for end in range(used, count + 1)
        }
    cuts = (*best[count][1], count)
    return tuple(pairwise(cuts))
