"""Which hosts run which layers: planned from what they reported, or as a lock file says."""

import logging
from collections.abc import Sequence
from pathlib import Path

import msgspec

from coordinator.fleet.placement import machines, seats
from coordinator.fleet.report import HostReport
from coordinator.plan.advice import advice
from coordinator.plan.cost import ModelCost
from coordinator.plan.lock import read_lock, write_lock
from coordinator.plan.plan import TYPICAL_CONTEXT, Demand, Plan
from coordinator.plan.planner import Impossible, plan
from coordinator.seat import Seat
from worker.errors import ConfigError

log = logging.getLogger("stageline.hosts")


class Places(msgspec.Struct, frozen=True):
    """A place and layers [first, end) for each stage."""

    layers: tuple[tuple[int, int], ...]
    seats: tuple[Seat, ...]


def places(
    cost: ModelCost, reports: Sequence[HostReport], *, stages: int | None, lock: Path | None, keys: dict[str, str]
) -> Places:
    """The best split for throughput over the hosts' devices, or the one in `lock`, which is written if it is not there.

    Raises ConfigError if the model does not fit, with what would make it fit, or if the lock does not.
    """
    available = machines(reports)
    if len(available) == 1:  # several stages of one device: for trying things out
        available *= stages or 1
    demand = Demand(context=min(TYPICAL_CONTEXT, cost.spec.context_length), sequences=1)
    if lock is not None and lock.exists():
        found = read_lock(lock, cost, available, demand, stages=stages, objective=None)
    else:
        most = min(len(available), len(cost.layers))
        best = plan(cost, available, demand, objective="throughput", stages=stages or most)
        if isinstance(best, Impossible):
            raise ConfigError(advice(best, available, ()), param="hosts")
        found = best
        if lock is not None:
            write_lock(lock, found)
    _tell(found)
    return Places(tuple((stage.first, stage.end) for stage in found.stages), seats(found, reports, keys))


def _tell(found: Plan) -> None:
    for number, stage in enumerate(found.stages):
        log.info(
            "stage %d: layers %d-%d on %s (%s), %.2f GB",
            number,
            stage.first,
            stage.end - 1,
            stage.machine.name,
            stage.machine.chip,
            found.resident_bytes(stage) / 1e9,
        )
