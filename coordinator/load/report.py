"""What a load generator saw, in numbers. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from worker.telemetry.percentile import percentile

QUANTILES = (50, 95, 99)

Outcome = Literal["done", "rejected", "failed"]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client saw it. Times in seconds since it was sent; `arrivals` of the pieces of the answer.

    `rejected` is status 429 or 503 before the first piece; `failed` is everything else that is no whole answer, and
    `refused` marks those of them that the server called wrong: any other status from 400 to 499.
    """

    outcome: Outcome
    refused: bool = False
    reason: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    arrivals: tuple[float, ...] = ()
    seconds: float = 0.0


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All requests together. Latencies in seconds, by percentile ("p50", "p95", "p99"); empty if nothing was measured.

    `failed` includes `refused`. `busy` is each stage's share of the time in which it computed, None for a server that
    does not say.
    """

    server: str
    seconds: float
    done: int
    rejected: int
    failed: int
    refused: int
    reasons: dict[str, int]
    prompt_tokens: int
    answer_tokens: int
    requests_per_second: float
    answer_tokens_per_second: float
    first_token_seconds: dict[str, float]
    inter_token_seconds: dict[str, float]
    request_seconds: dict[str, float]
    busy: list[float] | None


def report(server: str, seen: Sequence[Seen], seconds: float, busy: list[float] | None) -> Report:
    """Sums up what was seen in `seconds`."""
    done = [one for one in seen if one.outcome == "done"]
    reasons: dict[str, int] = {}
    for one in seen:
        if one.outcome != "done":
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
    answer_tokens = sum(one.answer_tokens for one in done)
    gaps = [after - before for one in done for before, after in zip(one.arrivals, one.arrivals[1:], strict=False)]
    return Report(
        server=server,
        seconds=seconds,
        done=len(done),
        rejected=sum(one.outcome == "rejected" for one in seen),
        failed=sum(one.outcome == "failed" for one in seen),
        refused=sum(one.refused for one in seen),
        reasons=reasons,
        prompt_tokens=sum(one.prompt_tokens for one in done),
        answer_tokens=answer_tokens,
        requests_per_second=len(done) / seconds,
        answer_tokens_per_second=answer_tokens / seconds,
        first_token_seconds=percentiles([one.arrivals[0] for one in done if one.arrivals]),
        inter_token_seconds=percentiles(gaps),
        request_seconds=percentiles([one.seconds for one in done]),
        busy=busy,
    )


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The smallest values that 50, 95 and 99 percent of all do not exceed; empty for none."""
    return {f"p{q}": percentile(values, q / 100) for q in QUANTILES} if values else {}
