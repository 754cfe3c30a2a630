"""A plan as `stageline plan --json` prints it. Pure."""

import msgspec

from coordinator.load.report import Report
from coordinator.plan.plan import Plan


class StageJson(msgspec.Struct, frozen=True):
    """A stage of layers [first, end): bytes of weights, of the state of all sequences, and of what a token reads."""

    stage: int
    machine: str
    layers: tuple[int, int]
    pattern: str
    resident_bytes: int
    state_bytes: int
    bytes_read_per_token: int
    predicted_step_seconds: float


class Forecast(msgspec.Struct, frozen=True):
    """What so many users at once will see, predicted by simulation."""

    users: int
    report: Report


class PlanJson(msgspec.Struct, frozen=True, kw_only=True):
    """The whole plan. `problem` says why it does not fit into this machine, where no other was named.

    Rates are tokens a second: of one batch alone, and of all when as many batches run as stages.
    `predicted_fraction_of_bandwidth` is of the bandwidth that the makers state, for one batch.
    """

    model: str
    precision: str
    origin: str
    objective: str
    context: int
    sequences: int
    batch: int
    parameters: int
    parameters_read_per_token: int
    bytes_read_per_token: int
    predicted_tokens_per_second: float
    predicted_tokens_per_second_full: float
    predicted_fraction_of_bandwidth: float
    stages: tuple[StageJson, ...]
    problem: str | None = None
    forecasts: tuple[Forecast, ...] = ()


def plan_json(plan: Plan, problem: str | None = None, forecasts: tuple[Forecast, ...] = ()) -> PlanJson:
    """The plan's numbers."""
    demand = plan.demand
    return PlanJson(
        model=plan.model.name,
        precision=plan.model.precision,
        origin=plan.model.origin,
        objective=plan.objective,
        context=demand.context,
        sequences=demand.sequences,
        batch=demand.batch,
        parameters=plan.model.parameters,
        parameters_read_per_token=plan.model.parameters_read,
        bytes_read_per_token=round(plan.bytes_read_per_token),
        predicted_tokens_per_second=demand.batch / plan.round_seconds(),
        predicted_tokens_per_second_full=demand.batch / plan.cycle_seconds(),
        predicted_fraction_of_bandwidth=plan.fraction_of_bandwidth,
        stages=tuple(
            StageJson(
                stage=number,
                machine=stage.machine.name,
                layers=(stage.first, stage.end),
                pattern=plan.pattern[stage.first : stage.end],
                resident_bytes=plan.resident_bytes(stage),
                state_bytes=plan.state_bytes(stage),
                bytes_read_per_token=round(plan.stage_bytes(stage)),
                predicted_step_seconds=plan.step_seconds(stage),
            )
            for number, stage in enumerate(plan.stages)
        ),
        problem=problem,
        forecasts=forecasts,
    )
