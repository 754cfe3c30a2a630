"""Whether the model that was named can be found, which one it is, and whether it fits."""

from collections.abc import Sequence

import msgspec

from coordinator.plan.advice import reason
from coordinator.plan.cost import ModelCost
from coordinator.plan.machine import Machine
from coordinator.plan.plan import TYPICAL_CONTEXT, Demand
from coordinator.plan.planner import Impossible, plan
from coordinator.plan.sources import PRESETS, checkpoint_cost, model_cost
from coordinator.size import size
from worker.agent.messages import Finding
from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import describe, hub_id, pinned
from worker.checkpoint.model_hash import model_hash
from worker.checkup.check import Check
from worker.checkup.wired_limit import RAISE, highest_mebibytes
from worker.errors import UserError

CORRECT = "name a directory with a model's config.json and weights, a hub id as owner/name, nano, super or ultra"
FETCH = "correct its name, or fetch it first: `hf download {repository}`"
SEE_PLAN = "`stageline plan {model}` says what would fit"
CHECK = Check(
    "model",
    "MODEL can be found and described, its hash, and whether its weights and one sequence fit into the memory of these "
    "machines. Only with MODEL. Fails if not.",
    (CORRECT, FETCH, RAISE, SEE_PLAN),
)


class Found(msgspec.Struct, frozen=True):
    """A model. `source` is what workers load and `hash` is theirs too; both are "" for the shapes of a preset, which
    has no weights. About `missing` bytes of it are still to be downloaded."""

    cost: ModelCost
    source: str = ""
    hash: str = ""
    missing: int = 0


def look(model: str) -> Found | UserError:
    """What there is of a preset, directory or hub id; of the hub everything but weights is fetched."""
    try:
        if model in PRESETS:
            return Found(model_cost(model, None))
        checkpoint = describe(model)
        cost, source = checkpoint_cost(checkpoint, None, name=model), pinned(model, checkpoint)
        return Found(cost, source, model_hash(source), _missing(cost, checkpoint))
    except UserError as error:
        return error


def _missing(cost: ModelCost, checkpoint: Checkpoint) -> int:
    """By the share of its files that are not here."""
    files = set(checkpoint.shards.files.values())
    absent = sum(not (checkpoint.directory / file).exists() for file in files)
    return _weights(cost) * absent // len(files)


def _weights(cost: ModelCost) -> int:
    return sum(piece.resident_bytes for piece in cost.all)


def _correct(model: str) -> str:
    """Only what can be a hub id can be fetched."""
    if (named := hub_id(model)) is None:
        return CORRECT
    repository, revision = named
    return FETCH.format(repository=f"{repository} --revision {revision}" if revision else repository)


def fit(model: str, found: Found | UserError, machines: Sequence[Machine]) -> Finding:
    """`machines` are those of the cluster; each may run one stage."""
    if isinstance(found, UserError):
        return CHECK.fail(found.message, _correct(model))
    cost = found.cost
    named = f"hash {found.hash[:16]}, " if found.hash else ""
    demand = Demand(context=min(TYPICAL_CONTEXT, cost.spec.context_length), sequences=1)
    stages = min(len(machines), len(cost.layers))
    best = plan(cost, machines, demand, objective="throughput", stages=stages)
    if not isinstance(best, Impossible):
        weights, usable = _weights(cost), sum(machine.usable for machine in machines)
        told = f"{len(cost.layers)} layers, {size(weights)} of weights ({cost.origin})"
        return CHECK.ok(f"{model}: {named}{told}, {weights / usable:.0%} of {size(usable)} usable")
    fix = SEE_PLAN.format(model=model)
    macs = {machine.memory for machine in machines if machine.chip.startswith("M") and machine.chip[1:2].isdecimal()}
    if macs:
        raised = ", ".join(f"`{RAISE.format(mebibytes=highest_mebibytes(memory))}`" for memory in sorted(macs))
        fix = f"let the GPU have more: {raised}; {fix}"
    return CHECK.fail(f"{named}{reason(best)}", fix)
