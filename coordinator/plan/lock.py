"""A plan kept in a file, so that what is measured tomorrow is split as it was today."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Machine
from coordinator.plan.plan import Demand, Objective, Plan, Stage
from coordinator.plan.planner import need_bytes
from coordinator.size import size
from worker.errors import ConfigError

VERSION = 1


class LockedStage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A machine's name and its layers [first, end)."""

    machine: str
    layers: tuple[int, int]


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of the file: the model as it was planned, and the split."""

    version: int
    model: str
    precision: str
    pattern: str
    resident_bytes: int
    objective: Objective
    stages: tuple[LockedStage, ...]


def write_lock(path: Path, plan: Plan) -> None:
    """Writes the plan; the file must not exist. Raises ConfigError if it cannot be written."""
    lock = Lock(
        version=VERSION,
        model=plan.model.name,
        precision=plan.model.precision,
        pattern=plan.pattern,
        resident_bytes=sum(map(plan.resident_bytes, plan.stages)),
        objective=plan.objective,
        stages=tuple(LockedStage(stage.machine.name, (stage.first, stage.end)) for stage in plan.stages),
    )
    try:
        with path.open("xb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(lock)) + b"\n")
    except OSError as error:
        raise ConfigError(f"--lock {path}: cannot be written: {error.strerror}", param="lock") from error


def read_lock(
    path: Path,
    model: ModelCost,
    machines: Sequence[Machine],
    demand: Demand,
    *,
    stages: int | None,
    objective: str | None,
) -> Plan:
    """The plan of the file; `stages` and `objective` are None where they do not matter.

    Raises ConfigError, naming the difference, unless it fits all these.
    """
    lock = _read(path)
    _compare(path, "version", lock.version, VERSION)
    # not the name, which depends on how it was typed: what counts is what is split
    _compare(path, "precision", lock.precision, model.precision)
    _compare(path, "pattern", lock.pattern, "".join(piece.kind for piece in model.layers))
    _compare(path, "resident_bytes", lock.resident_bytes, sum(piece.resident_bytes for piece in model.all))
    if stages is not None:
        _compare(path, "number of stages", len(lock.stages), stages)
    if objective is not None:
        _compare(path, "objective", lock.objective, objective)
    bounds = [bound for stage in lock.stages for bound in stage.layers]
    _compare(path, "layers", (bounds[:1], bounds[1:-1:2], bounds[-1:]), ([0], bounds[2::2], [len(model.layers)]))
    plan = Plan(
        model=model,
        demand=demand,
        objective=lock.objective,
        stages=tuple(_stage(path, stage, lock.stages, machines) for stage in lock.stages),
    )
    _check_memory(path, plan)
    return plan


def locked_stages(path: Path) -> int:
    """How many stages the file has. Raises ConfigError if it is no lock file."""
    return len(_read(path).stages)


def locked_objective(path: Path) -> Objective:
    """What the file's plan is best for. Raises ConfigError if it is no lock file."""
    return _read(path).objective


def _read(path: Path) -> Lock:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lock)
    except OSError as error:
        raise ConfigError(f"--lock {path}: cannot be read: {error.strerror}", param="lock") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--lock {path}: not a lock file: {error}", param="lock") from error


def _stage(path: Path, stage: LockedStage, stages: Sequence[LockedStage], machines: Sequence[Machine]) -> Stage:
    first, end = stage.layers
    found = next((machine for machine in machines if machine.name == stage.machine), None)
    if found is None or first >= end:
        raise _mismatch(path, f"layers {first} to {end} are on {stage.machine!r}", [each.name for each in machines])
    uses = sum(each.machine == found.name for each in stages)
    if uses > sum(machine.name == found.name for machine in machines):
        raise _mismatch(path, f"{stage.machine!r} runs {uses} stages", [each.name for each in machines])
    return Stage(found, first, end)


def _check_memory(path: Path, plan: Plan) -> None:
    needs: dict[str, int] = {}
    for stage in plan.stages:
        machine = stage.machine
        need = needs.get(machine.name, 0) + need_bytes(plan.model, plan.demand, stage.first, stage.end)
        needs[machine.name] = need
        if need > machine.usable:
            raise ConfigError(
                f"--lock {path}: {machine.name} needs {size(need)} up to layer {stage.end - 1} and has "
                f"{size(machine.usable)} usable; delete the file to plan anew",
                param="lock",
            )


def _compare(path: Path, what: str, locked: object, now: object) -> None:
    if locked != now:
        raise _mismatch(path, f"{what} is {locked!r}", now)


def _mismatch(path: Path, locked: str, now: object) -> ConfigError:
    return ConfigError(f"--lock {path}: {locked} there, now it is {now!r}; delete the file to plan anew", param="lock")
