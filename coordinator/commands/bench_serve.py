"""`stageline bench serve`: many requests at once, against a cluster of its own or any OpenAI-compatible server."""

import asyncio
import contextlib
import math
import time

import click
import msgspec
from rich.console import Console
from rich.table import Table

from coordinator.client import authorization, http_address
from coordinator.commands.running import running
from coordinator.demo import made_model
from coordinator.load.busy import busy_shares, compute_seconds
from coordinator.load.client import LoadClient, server_of
from coordinator.load.plan import Planned, plan_load
from coordinator.load.report import QUANTILES, Report, report
from worker.errors import ClusterError, ConfigError, UserError


class _Rate(click.ParamType[float]):
    name = "rate"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A positive number or `inf`."""
        try:
            rate = float(str(value))
        except ValueError:
            rate = math.nan
        if not rate > 0:
            self.fail(f"{value!r} is neither a positive number of requests a second nor inf", param, ctx)
        return rate


@click.command()
@click.argument("model", required=False)
@click.option("--stages", type=click.IntRange(1), default=2, show_default=True, help="Stages of the cluster.")
@click.option("--against", metavar="URL", help="Measure this running server instead, a coordinator or another one.")
@click.option("--model-name", metavar="TEXT", help="What to ask that server for.  [default: the first it lists]")
@click.option("--api-key", envvar="STAGELINE_API_KEY", metavar="TEXT", help="The server's key; also STAGELINE_API_KEY.")
@click.option("--requests", type=click.IntRange(1), default=64, show_default=True)
@click.option(
    "--rate", type=_Rate(), default="inf", show_default=True, help="Requests a second, at random; inf: at once."
)
@click.option("--concurrency", type=click.IntRange(1), default=256, show_default=True, help="Most requests at a time.")
@click.option(
    "--prompt-tokens", type=click.IntRange(1), default=128, show_default=True, help="Mean length of a prompt."
)
@click.option(
    "--answer-tokens", type=click.IntRange(1), default=64, show_default=True, help="Mean length of an answer."
)
@click.option(
    "--spread", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Lengths differ by this share."
)
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed plans the same load.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def serve(
    model: str | None,
    stages: int,
    against: str | None,
    model_name: str | None,
    api_key: str | None,
    requests: int,
    rate: float,
    concurrency: int,
    prompt_tokens: int,
    answer_tokens: int,
    spread: float,
    seed: int,
    as_json: bool,
) -> None:
    """Throughput and latency under load: of a cluster with MODEL (a small random one if none is named), or of the
    server at the URL after --against.

    Prompts for a coordinator are exact numbers of token ids, and its answers are as long as planned. Other servers get
    English words, about as many as tokens, and may end answers early; their own usage counts.
    """
    if against is not None and model is not None:
        raise ConfigError("give either a MODEL or --against", param="against")
    authorization(api_key)  # a wrong key or address is told before anything starts
    if against is not None:
        against = http_address(against, param="against")
    load = plan_load(
        requests, rate=rate, prompt_tokens=prompt_tokens, answer_tokens=answer_tokens, spread=spread, seed=seed
    )
    with contextlib.ExitStack() as stack:
        url = against or stack.enter_context(running(model or str(made_model("demo")), stages))
        result = asyncio.run(_measure(url, model_name, api_key, load, concurrency))
    if as_json:
        print(msgspec.json.encode(result).decode())
    else:
        _show(result)
    if result.done == 0:
        reason = max(result.reasons, key=lambda reason: result.reasons[reason])
        mistaken = result.refused == result.failed + result.rejected
        raise (UserError if mistaken else ClusterError)(f"no request was answered; {reason}")


async def _measure(
    url: str, model_name: str | None, api_key: str | None, load: list[Planned], concurrency: int
) -> Report:
    first_model, ours = await server_of(url, api_key)
    asked = model_name or first_model
    async with LoadClient(url, model=asked, api_key=api_key, ours=ours, concurrency=concurrency) as client:
        await client.run(load[:1])  # warms up
        before = await compute_seconds(url, api_key) if ours else None
        start = time.perf_counter()
        seen = await client.run(load)
        seconds = time.perf_counter() - start
        after = await compute_seconds(url, api_key) if ours else None
    return report(url, seen, seconds, busy_shares(before, after, seconds))


def _show(result: Report) -> None:
    console = Console()
    asked = result.done + result.rejected + result.failed
    console.print(
        f"{result.done} of {asked} requests answered in {result.seconds:.2f} s, {result.rejected} rejected, "
        f"{result.failed} failed",
        highlight=False,
    )
    for reason, count in result.reasons.items():
        console.print(f"  {count} x {reason}", highlight=False, markup=False)
    console.print(
        f"{result.requests_per_second:.2f} requests/s, {result.answer_tokens_per_second:.1f} answer tokens/s, "
        f"{result.prompt_tokens} prompt and {result.answer_tokens} answer tokens",
        highlight=False,
    )
    table = Table("ms", *(f"p{q}" for q in QUANTILES))
    rows = {
        "first token": result.first_token_seconds,
        "between tokens": result.inter_token_seconds,
        "whole request": result.request_seconds,
    }
    for name, values in rows.items():
        table.add_row(name, *(f"{1e3 * values[f'p{q}']:.1f}" if values else "-" for q in QUANTILES))
    console.print(table)
    if result.busy is not None:
        shares = ", ".join(f"stage {stage} {share:.0%}" for stage, share in enumerate(result.busy))
        console.print(f"busy: {shares}", highlight=False)
