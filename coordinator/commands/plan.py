"""`stageline plan`: which layers would go to which machine, and how fast that would be; nothing is loaded."""

import asyncio
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import click
import msgspec
from rich.console import Console

from coordinator import config
from coordinator.commands.options import setting
from coordinator.commands.plan_table import show, show_forecasts
from coordinator.fleet import placement
from coordinator.fleet.gathering import gather
from coordinator.fleet.hostfile import Hostfile, read_hostfile
from coordinator.fleet.report import reports
from coordinator.plan import chips
from coordinator.plan.advice import advice
from coordinator.plan.as_json import Forecast, plan_json
from coordinator.plan.cost import ModelCost
from coordinator.plan.explain import explain
from coordinator.plan.forecast import forecast
from coordinator.plan.lock import read_lock, write_lock
from coordinator.plan.machine import Machine
from coordinator.plan.machine_file import read_machines
from coordinator.plan.plan import TYPICAL_CONTEXT, Demand, Plan
from coordinator.plan.planner import Impossible, Objective
from coordinator.plan.planner import plan as best_plan
from coordinator.plan.sources import PRESETS, UNPACKED, model_cost
from coordinator.plan.this_machine import this_machine
from coordinator.settings import Settings
from worker.errors import ConfigError

LINK = "thunderbolt"
USERS = (1, 2, 4, 8, 16)
FEWER_BITS = ("8:64", "6:64", "5:64", "4:64", "mxfp4", "3:64", "2:64")
LINE_WIDTH = 140  # where there is no window to fit into


@click.command()
@click.argument("model")
@click.option("--stages", type=click.IntRange(1), help="How many.  [default: one a machine; for latency: the best]")
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
@click.option("--context", type=click.IntRange(1), help=f"Positions of each sequence.  [default: {TYPICAL_CONTEXT}]")
@click.option("--sequences", type=click.IntRange(1), help="At once.  [default: a batch a stage; for latency: one]")
@click.option("--batch", type=click.IntRange(1, 8), default=1, show_default=True, help="Sequences in a step.")
@click.option("--simulate", is_flag=True, help="Predict what 1 to 16 users at once see.")
@click.option("--prompt-tokens", type=click.IntRange(1), default=512, show_default=True, help="Of each simulated user.")
@click.option("--answer-tokens", type=click.IntRange(1), default=128, show_default=True, help="Of each simulated user.")
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
    machines = _machines(described, file, settings, link or LINK, stages)
    together = batch if objective == "latency" else batch * (stages or len(machines))
    demand = _demand(cost, context, sequences or together, batch)
    problem = None
    if lock is not None and lock.exists():
        found = read_lock(lock, cost, machines, demand, stages=stages, objective=objective)
    else:
        found = _best(cost, machines, demand, cast(Objective, objective or "throughput"), stages)
        if isinstance(found, Impossible):
            problem = advice(found, machines, _fewer_bits(model, quantize))
            if described or file or settings.hosts or lock:
                raise ConfigError(problem, param="machines")
            found = found.best
        if lock is not None:
            write_lock(lock, found)
    forecasts = tuple(_forecasts(found, prompt_tokens, answer_tokens)) if simulate else ()
    if as_json:
        print(msgspec.json.encode(plan_json(found, problem, forecasts)).decode())
        return
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, LINE_WIDTH)
    show(found, console)
    for line in filter(None, (problem, None if problem else _faster_alone(found))):
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    if with_arithmetic:
        for line in explain(found):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
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


def _demand(cost: ModelCost, context: int | None, sequences: int, batch: int) -> Demand:
    longest = cost.spec.context_length
    if context is not None and context > longest:
        raise ConfigError(f"--context {context}: {cost.name} was made for at most {longest} tokens", param="context")
    if sequences < batch:
        raise ConfigError(f"--sequences {sequences} is less than --batch {batch}", param="sequences")
    return Demand(context=context or min(TYPICAL_CONTEXT, longest), sequences=sequences, batch=batch)


def _best(
    cost: ModelCost, machines: tuple[Machine, ...], demand: Demand, objective: Objective, stages: int | None
) -> Plan | Impossible:
    """The best plan of so many stages. Where that is open: for throughput on as many machines as can hold a layer, for
    latency on as few as are best."""
    everywhere = best_plan(cost, machines, demand, objective=objective, stages=stages or len(machines))
    if stages is not None or (objective == "throughput" and isinstance(everywhere, Plan)):
        return everywhere
    fewer = (best_plan(cost, machines, demand, objective=objective, stages=count) for count in range(1, len(machines)))
    plans = [found for found in (*fewer, everywhere) if isinstance(found, Plan)]
    seconds = Plan.round_seconds if objective == "latency" else Plan.cycle_seconds
    return min(plans, key=seconds, default=everywhere)


def _fewer_bits(model: str, quantize: str | None) -> Iterator[tuple[str, Callable[[], ModelCost]]]:
    """Other packings of a model that is not packed by its checkpoint."""
    if model in PRESETS or quantize not in (None, UNPACKED):
        for option in FEWER_BITS:
            yield option, partial(model_cost, model, option)


def _faster_alone(found: Plan) -> str | None:
    """Whether one of the machines holds the model and serves one user faster than all of them together."""
    if found.shares_machine:
        return None
    demand = msgspec.structs.replace(found.demand, sequences=1, batch=1)
    together = msgspec.structs.replace(found, demand=demand)
    alone = [
        one
        for machine in {stage.machine.chip: stage.machine for stage in found.stages}.values()
        if isinstance(one := best_plan(found.model, (machine,), demand, objective="latency", stages=1), Plan)
    ]
    best = min(alone, key=lambda one: one.round_seconds(), default=None)
    if len(found.stages) == 1 or best is None or best.round_seconds() >= together.round_seconds():
        return None
    return (
        f"one user is served faster by {best.stages[0].machine.name} alone, which holds the whole model: "
        f"{1 / best.round_seconds():.1f} tok/s against {1 / together.round_seconds():.1f}"
    )


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
