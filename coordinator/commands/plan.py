"""`stageline plan`: which layers would go to which machine, and how fast that would be; nothing is loaded."""

import asyncio
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from rich.console import Console

from coordinator import config
from coordinator.commands.options import setting
from coordinator.commands.plan_table import printable, show, show_forecasts
from coordinator.fleet import placement
from coordinator.fleet.gathering import gather
from coordinator.fleet.hostfile import Hostfile, read_hostfile
from coordinator.fleet.report import reports
from coordinator.plan import chips
from coordinator.plan.advice import advice
from coordinator.plan.as_json import Forecast, plan_json
from coordinator.plan.asked import Asked
from coordinator.plan.cost import ModelCost
from coordinator.plan.explain import explain
from coordinator.plan.forecast import forecast
from coordinator.plan.lock import locked_objective, locked_stages, read_lock, write_lock
from coordinator.plan.machine import Machine
from coordinator.plan.machine_file import read_machines
from coordinator.plan.plan import TYPICAL_CONTEXT, Demand, Objective, Plan
from coordinator.plan.planner import Impossible
from coordinator.plan.planner import plan as best_plan
from coordinator.plan.sources import PRESETS, UNPACKED, model_cost
from coordinator.plan.this_machine import this_machine
from coordinator.settings import Settings
from worker.errors import ConfigError

LINK = "thunderbolt"
USERS = (1, 2, 4, 8, 16)
FEWER_BITS = ("8:64", "6:64", "5:64", "4:64", "mxfp4", "3:64", "2:64")
MOST_STAGES = 1024
MOST_SEQUENCES = 1_000_000
LONGEST_PROMPT = 1 << 20
LONGEST_ANSWER = 8192  # of simulated ones: every token of every stage is simulated
TOKEN_SECONDS = (1e-9, 3600.0)  # on one machine; beyond them a figure is wrong
LINE_WIDTH = 140  # where there is no window to fit into


@click.command()
@click.argument("model")
@click.option(
    "--stages", type=click.IntRange(1, MOST_STAGES), help="How many.  [default: one a machine; for latency: the best]"
)
@click.option(
    "--machine", "described", multiple=True, metavar="'CHIP GIB'", help="Such as 'M3 Ultra 512' or '4 x H200'; repeat."
)
@click.option("--machines", "file", type=click.Path(path_type=Path), help="TOML file with machines, instead.")
@setting("hosts")
@setting("python")
@setting("keys")
@setting("insecure")
@click.option("--link", help=f"Between --machine: {', '.join(chips.links())}.  [default: {LINK}]")
@click.option("--quantize", metavar="TEXT", help="BITS:GROUP, mxfp4, nvfp4, mxfp8 or none.  [preset: 8:32]")
@click.option("--objective", type=click.Choice(["throughput", "latency"]), help="[default: throughput]")
@click.option("--context", type=click.IntRange(2), help=f"Positions of each sequence.  [default: {TYPICAL_CONTEXT}]")
@click.option(
    "--sequences",
    type=click.IntRange(1, MOST_SEQUENCES),
    help="At once.  [default: a batch a stage; for latency: one]",
)
@click.option("--batch", type=click.IntRange(1, 8), default=1, show_default=True, help="Sequences in a step.")
@click.option("--simulate", is_flag=True, help="Predict what 1 to 16 users at once see.")
@click.option(
    "--prompt-tokens",
    type=click.IntRange(1, LONGEST_PROMPT),
    default=512,
    show_default=True,
    help="Of each simulated user.",
)
@click.option(
    "--answer-tokens",
    type=click.IntRange(1, LONGEST_ANSWER),
    default=128,
    show_default=True,
    help="Of each simulated user.",
)
@click.option("--lock", type=click.Path(path_type=Path), help="Keep the plan in this file, or use what is in it.")
@click.option("--explain", "with_arithmetic", is_flag=True, help="Print the arithmetic.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def plan(
    model: str,
    stages: int | None,
    described: tuple[str, ...],
    file: Path | None,
    link: str | None,
    quantize: str | None,
    objective: str | None,
    context: int | None,
    sequences: int | None,
    batch: int,
    simulate: bool,
    prompt_tokens: int,
    answer_tokens: int,
    lock: Path | None,
    with_arithmetic: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Split MODEL over machines and predict its speed.

    MODEL is nano, super or ultra (published shapes, no weights needed), a directory or a hub id. Without machines it is
    planned for this one, and the plan is shown even if it does not fit. With --hosts the hosts are asked what they are.
    All speeds are predictions; `coordinator/plan/machines.toml` says where its figures come from.
    """
    settings = config.settings(None, os.environ, flags)
    if sum(map(bool, (described, file, settings.hosts))) > 1:
        raise ConfigError("give one of --machine, --machines and --hosts", param="machines")
    if link and not described:
        raise ConfigError("--link is about --machine; a file for --machines names its links itself", param="link")
    cost = model_cost(model, quantize)
    kept = lock if lock is not None and lock.exists() else None
    asked = Asked(
        context=_context(cost, context),
        batch=batch,
        sequences=sequences,
        stages=locked_stages(kept) if kept and stages is None else stages,
        objective=cast(Objective, objective or (locked_objective(kept) if kept else "throughput")),
    )
    if simulate:
        _check_lengths(asked.context, prompt_tokens, answer_tokens)
    machines = _machines(described, file, settings, link or LINK, asked.stages)
    _check_machines(machines, cost, batch)
    demand = asked.demand(asked.most(cost, machines))
    if demand.sequences < batch:
        raise ConfigError(f"--sequences {sequences} is less than --batch {batch}", param="sequences")
    problem = None
    if kept:
        found = read_lock(kept, cost, machines, demand, stages=stages, objective=objective)
    else:
        found = asked.best(cost, machines)
        if isinstance(found, Impossible):
            problem = advice(found, machines, _fewer_bits(model, quantize), asked)
            if described or file or settings.hosts or lock:
                raise ConfigError(problem, param="machines")
            found = found.best
        if lock is not None:
            write_lock(lock, found)
    forecasts = tuple(_forecasts(found, prompt_tokens, answer_tokens)) if simulate else ()
    if as_json:
        print(msgspec.json.encode(plan_json(found, problem, forecasts)).decode())
        return
    console = Console(markup=False, emoji=False, highlight=False)  # names are shown as they are
    if not console.is_terminal:
        console.width = max(console.width, LINE_WIDTH)
    show(found, console)
    for line in [problem] if problem else _faster_alone(found):
        console.print(printable(line), soft_wrap=True)
    if with_arithmetic:
        for line in explain(found):
            console.print(printable(line), soft_wrap=True)
    if forecasts:
        show_forecasts(forecasts, console)


def _machines(
    described: tuple[str, ...], file: Path | None, settings: Settings, link: str, stages: int | None
) -> tuple[Machine, ...]:
    """The machines to choose from. A single one runs as many stages as asked."""
    if settings.hosts:
        machines = asyncio.run(_asked(settings, read_hostfile(Path(settings.hosts), addressed=settings.launch)))
    elif file is not None:
        machines = read_machines(file)
    elif described:
        machines = chips.machines(described, chips.link(link))
    else:
        return this_machine(stages or 1)
    return machines * (stages or 1) if len(machines) == 1 else machines


async def _asked(settings: Settings, hostfile: Hostfile) -> tuple[Machine, ...]:
    async with gather(settings, hostfile) as fleet:
        return placement.machines(reports(fleet.members))


def _context(cost: ModelCost, context: int | None) -> int:
    longest = cost.spec.context_length
    if context is not None and context > longest:
        raise ConfigError(f"--context {context}: {cost.name} was made for at most {longest} tokens", param="context")
    return context or min(TYPICAL_CONTEXT, longest)


def _check_lengths(context: int, prompt_tokens: int, answer_tokens: int) -> None:
    if prompt_tokens + answer_tokens > context:
        raise ConfigError(
            f"--prompt-tokens {prompt_tokens} and --answer-tokens {answer_tokens} are {prompt_tokens + answer_tokens} "
            f"tokens, longer than the context of {context}; ask for less, or for a longer --context",
            param="context",
        )


def _check_machines(machines: Sequence[Machine], cost: ModelCost, batch: int) -> None:
    """Refuses names that would garble a terminal, and figures with which nothing can be computed."""
    for number, machine in enumerate(machines, start=1):
        if not machine.name.isprintable():
            raise ConfigError(
                f"machine {number}: its name {machine.name!a} has characters that cannot be printed; rename it",
                param="machines",
            )
        least, most = TOKEN_SECONDS
        seconds = _token_seconds(machine, cost, batch)
        if not least <= seconds <= most:
            raise ConfigError(
                f"machine {number}, {machine.name}: a token would take {seconds:.3g} s on it, expected {least:g} to "
                f"{most:g}; correct its bandwidth_gbs, read, compute_tflops, layer_us or latency_us",
                param="machines",
            )


def _token_seconds(machine: Machine, cost: ModelCost, batch: int) -> float:
    """Of a batch through the whole model and over the link."""
    if not (machine.read and machine.compute):  # figures so small that their product is nothing
        return math.inf
    return sum(machine.decode_seconds(piece, batch) for piece in cost.all) + machine.link.seconds(
        cost.hidden_bytes(batch)
    )


def _fewer_bits(model: str, quantize: str | None) -> Iterator[tuple[str, Callable[[], ModelCost]]]:
    """Other packings of a model that is not packed by its checkpoint."""
    if model in PRESETS or quantize not in (None, UNPACKED):
        for option in FEWER_BITS:
            yield option, partial(model_cost, model, option)


def _faster_alone(found: Plan) -> Iterator[str]:
    """Whether one of the machines holds the model and serves one user, or all, faster than all of them together."""
    if len(found.stages) == 1 or found.shares_machine:
        return
    one = msgspec.structs.replace(found.demand, sequences=1, batch=1)
    for who, demand, seconds in (
        ("one user is", one, Plan.round_seconds),
        ("all users together are", found.demand, Plan.cycle_seconds),
    ):
        alone = _best_alone(found, demand, seconds)
        together = msgspec.structs.replace(found, demand=demand)
        if alone is not None and seconds(alone) < seconds(together):
            yield (
                f"{who} served faster by {alone.stages[0].machine.name} alone, which holds the whole model: "
                f"{demand.batch / seconds(alone):.1f} tok/s against {demand.batch / seconds(together):.1f}"
            )


def _best_alone(found: Plan, demand: Demand, seconds: Callable[[Plan], float]) -> Plan | None:
    """The fastest of the machines that hold the model, each kind tried once."""
    kinds = {msgspec.structs.replace(stage.machine, name=""): stage.machine for stage in reversed(found.stages)}
    plans = (
        best_plan(found.model, (machine,), demand, objective="latency", stages=1)
        for machine in reversed(kinds.values())
    )
    return min((each for each in plans if isinstance(each, Plan)), key=seconds, default=None)


def _forecasts(found: Plan, prompt_tokens: int, answer_tokens: int) -> Iterator[Forecast]:
    for users in USERS:
        yield Forecast(
            users,
            forecast(
                found,
                users=users,
                prompt_tokens=prompt_tokens,
                answer_tokens=answer_tokens,
                chunk=config.default("prefill_chunk"),
                pause=config.default("decode_pause"),
            ),
        )
