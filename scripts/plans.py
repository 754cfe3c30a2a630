"""Writes docs/plans.md: what `stageline plan` predicts for machines that we do not have.

`python scripts/plans.py` rewrites it; with `--check` it exits with 1 if the page is not up to date.
"""

import contextlib
import io
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from coordinator.cli import run

PAGE = Path("docs/plans.md")
LINKS = ("thunderbolt", "10gbe", "wifi")
COUNTS = (1, 2, 4, 8)

INTRODUCTION = """\
# Plans for machines that we do not have

**Every number on this page is a prediction.** No Mac was at hand; `python scripts/plans.py` writes the page from what
`stageline plan` prints.

How a prediction is made: in each layer a step takes the bytes that it reads over the sustained bandwidth of the chip,
or its arithmetic where that takes longer, plus a cost for the layer's launches. A simulation lets the real scheduler
run on these times. `stageline plan --explain` prints the arithmetic of any plan, `coordinator/plan/machines.toml` says
where each chip's figures come from and which of them are assumed.

What is known about its error:
- **The simulation**: real clusters of 1, 2 and 3 stages with 2 and 8 users, whose stages sleep for a known time,
  gave the predicted throughput within 9 % in all six cases, and the first token of a prompt in four pieces
  within 10 % (`tests/cluster/test_prediction.py`, which prints the errors and fails at 10 %).
- **A step on an H200** with Super: {eight} tok/s predicted at 8 bits where 180.6 were measured, {four} for 239.8 at 4
  bits, and with four sequences {eights} for 360 and {fours} for 391. Two figures of the card were taken from these
  runs, so this is a fit and no proof.
- **A step on a Mac** is the weak point: 40 us a layer are assumed. Engines that were measured on Macs lose 64 to 111 us
  a layer. With 111 us, Super on one M3 Ultra comes to 33 tok/s instead of 42.
- **Prompts on a Mac**: arithmetic as fast as llama.cpp's dense products on the same chip. MLX was not measured.

Unless said otherwise: 8 bits in groups of 32, each user sends one prompt of 512 tokens and gets 128, all at once.
"""

SUPER = """\
## Super-120B on Mac Studios with M3 Ultra, 512 GB

It fits on one of them. `alone` is one user after his prompt; `together` are as many users as machines in the same
state; the last columns are 16 users with their prompts, by simulation.
"""

BETTER = """\
**One user is served best by one machine**: his token passes all stages one after the other, so several machines add
hops and nothing else; over Wi-Fi two of them take 39 % of his speed and four more than half. His first token does come
sooner, since pieces of one prompt are on several machines at once. More machines pay off for several users, and for
models that one machine does not hold.
"""

SMALL = """\
## Super-120B on Mac Studios with M4 Max, 64 GB

None of them holds it, nor do two.
"""

ULTRA = """\
## Ultra-550B on four Mac Studios with M3 Ultra, 512 GB

At 8 bits it has 618 GB of weights and fits on no single machine.
"""

ULTRA_ALONE = """\
At 4 bits it fits on one, and again one user is served best by one machine, sixteen by four:
"""

MIXED = """\
## Machines that differ

The planner gives each machine the share that keeps the slowest stage as fast as possible, and chooses their order. For
latency it leaves out machines that only add hops.
"""


def page() -> str:
    """The whole page."""
    ultra = ["ultra", "--machine", "4 x M3 Ultra 512", "--simulate"]
    mixed = ["super", "--machine", "M3 Ultra 256", "--machine", "M4 Max 128", "--machine", "M2 Max 96"]
    parts = [
        INTRODUCTION.format(
            eight=_on_h200("8:32", 1), four=_on_h200("4:64", 1), eights=_on_h200("8:32", 4), fours=_on_h200("4:64", 4)
        ),
        SUPER,
        _grid("super", "M3 Ultra 512", COUNTS),
        BETTER,
        SMALL,
        _grid("super", "M4 Max 64", COUNTS),
        ULTRA,
        _printed(ultra),
        _grid("ultra", "M3 Ultra 512", (4, 8)),
        ULTRA_ALONE,
        _grid("ultra", "M3 Ultra 512", (1, 4), "--quantize", "4:64"),
        MIXED,
        _printed(mixed),
        _printed([*mixed, "--objective", "latency"]),
    ]
    return "\n".join(parts)


def _on_h200(quantize: str, batch: int) -> str:
    """Tokens a second of Super on one card."""
    options = ["--quantize", quantize, "--batch", str(batch), "--context", "1024", "--json"]
    _, text = _run(["super", "--machine", "H200", *options])
    return f"{json.loads(text)['predicted_tokens_per_second']:.1f}"


def _grid(model: str, machine: str, counts: tuple[int, ...], *options: str) -> str:
    """A row for each number of machines and each link."""
    lines = [
        f"`stageline plan {model} --machine 'N x {machine}' --link LINK --simulate --json{_shown(options)}`",
        "",
        "| machines | link | alone tok/s | together tok/s | 16 users tok/s | first token s | between tokens ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for count in counts:
        for link in LINKS if count > 1 else ("-",):
            arguments = [model, "--machine", f"{count} x {machine}", "--simulate", "--json", *options]
            status, text = _run([*arguments, "--link", link] if count > 1 else arguments)
            cells = _cells(json.loads(text)) if status == 0 else "does not fit | | | |"
            lines.append(f"| {count} | {link} | {cells} |")
    return "\n".join(lines) + "\n"


def _cells(plan: dict[str, Any]) -> str:
    report = plan["forecasts"][-1]["report"]
    rates = (plan["predicted_tokens_per_second"], plan["predicted_tokens_per_second_full"])
    cells = [f"{rate:.1f}" for rate in (*rates, report["answer_tokens_per_second"])]
    cells.append(f"{report['first_token_seconds']['p50']:.1f}")
    cells.append(f"{report['inter_token_seconds']['p50'] * 1e3:.0f}")
    return " | ".join(cells)


def _printed(arguments: list[str]) -> str:
    status, text = _run(arguments)
    assert status == 0, arguments
    shown = "\n".join(line.rstrip() for line in text.splitlines())
    return f"```\n$ stageline plan{_shown(arguments)}\n{shown}\n```\n"


def _shown(arguments: list[str] | tuple[str, ...]) -> str:
    return "".join(f" {shlex.quote(argument)}" for argument in arguments)


def _run(arguments: list[str]) -> tuple[int, str]:
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()):
        status = run(["plan", *arguments])
    return status, out.getvalue()


written = page()
if sys.argv[1:] == ["--check"]:
    if PAGE.read_text(encoding="utf-8") != written:
        sys.exit(f"{PAGE} is not up to date: run `python scripts/plans.py`")
else:
    PAGE.write_text(written, encoding="utf-8")
