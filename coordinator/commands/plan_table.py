"""A plan on a terminal."""

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator.plan.as_json import Forecast
from coordinator.plan.plan import Plan
from coordinator.size import size

KINDS = "ME*-"
COLUMNS = ("stage", "machine", "layers", "kinds", "weights", "state", "of usable", "read/token", "ms", "of bandwidth")


def printable(text: str) -> str:
    """The text with a question mark for whatever would steer a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def show(plan: Plan, console: Console) -> None:
    """The stages, one a row, and what they come to, on a console that takes no markup."""
    model, demand = plan.model, plan.demand
    table = Table(
        title=f"{printable(model.name)}, {model.precision}: {_large(model.parameters, 'B')} parameters, "
        f"{_large(model.parameters_read, 'B')} and {_large(plan.bytes_read_per_token, 'GB')} read per token",
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("machine", "kinds") else "right")
    for number, stage in enumerate(plan.stages):
        kinds, machine = plan.kinds(stage), stage.machine
        weights, state, seconds = plan.resident_bytes(stage), plan.state_bytes(stage), plan.step_seconds(stage)
        nbytes = plan.stage_bytes(stage)
        table.add_row(
            str(number),
            printable(machine.name),
            f"{stage.first}-{stage.end - 1}",
            " ".join(f"{kinds[kind]}{kind}" for kind in KINDS if kinds[kind]),
            size(weights),
            size(state),
            f"{(weights + state) / machine.usable:.0%}",
            size(round(nbytes)),
            f"{seconds * 1e3:.2f}",
            f"{demand.batch * nbytes / seconds / machine.bandwidth:.0%}",
        )
    console.print(table)
    for line in summary(plan):
        console.print(line, soft_wrap=True)


def _large(number: float, billions: str) -> str:
    """With two decimals, in the units in which models are told."""
    return f"{number / 1e9:.2f} {billions}" if number >= 1e9 else f"{number / 1e6:.2f} M{billions[1:]}"


def summary(plan: Plan) -> list[str]:
    """The predictions in sentences."""
    demand = plan.demand
    end, start = plan.round_seconds(demand.context), plan.round_seconds()
    lines = [
        f"predicted for one user: {1 / start:.1f} tok/s, {plan.fraction_of_bandwidth:.0%} of the stated bandwidth; "
        f"{1 / end:.1f} tok/s at {demand.context} positions"
    ]
    if demand.batch > 1:
        lines[0] = (
            f"predicted for a batch of {demand.batch}: {demand.batch / start:.1f} tok/s, "
            f"{plan.fraction_of_bandwidth:.0%} of the stated bandwidth"
        )
    if len(plan.stages) > 1:
        lines.append(
            f"predicted for {len(plan.stages)} batches of {demand.batch}, one a stage: "
            f"{demand.batch / plan.cycle_seconds():.1f} tok/s together"
        )
    return lines


def show_forecasts(forecasts: tuple[Forecast, ...], console: Console) -> None:
    """What users will see, one row a number of users."""
    table = Table(title="predicted by simulation", title_justify="left", box=SIMPLE_HEAD, show_edge=False)
    for column in ("users", "tok/s", "each", "first token s", "p95", "between tokens ms", "p95", "busiest"):
        table.add_column(column, justify="right")
    for forecast in forecasts:
        report = forecast.report
        between = report.inter_token_seconds or {"p50": 0.0, "p95": 0.0}
        table.add_row(
            str(forecast.users),
            f"{report.answer_tokens_per_second:.1f}",
            f"{report.answer_tokens_per_second / forecast.users:.1f}",
            *(f"{report.first_token_seconds[q]:.2f}" for q in ("p50", "p95")),
            *(f"{between[q] * 1e3:.1f}" for q in ("p50", "p95")),
            f"{max(report.busy or [0.0]):.0%}",
        )
    console.print(table)
