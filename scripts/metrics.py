"""Writes docs/metrics.md from the definitions of the series.

`python scripts/metrics.py` rewrites it; with `--check` it exits with 1 if the page is not up to date.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from coordinator.telemetry import metrics as coordinator
from worker.telemetry import metrics as worker
from worker.telemetry.series import Series

PAGE = Path("docs/metrics.md")
INTRODUCTION = """\
# Metrics

`make generate` writes this page from the definitions in `coordinator/telemetry/metrics.py` and
`worker/telemetry/metrics.py`.

Every worker serves its own series on a port of its own, on loopback or, in a cluster over several hosts, at its host's
address; the coordinator serves its own at `/metrics` on the API's port. `GET /metrics/targets` lists all of them for
Prometheus' HTTP service discovery: the workers that live, with the label `stage`, and the coordinator. The series of a
worker end with it.

Times are in seconds, sizes in bytes, counters end in `_total`. Every interval is measured by one process's monotonic
clock; no label holds the id of a request. A histogram `x` is the series `x_bucket`, `x_sum` and `x_count`.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, series in (("Coordinator", coordinator.SERIES), ("Worker", worker.SERIES)):
        parts.append("\n".join([f"## {title}\n", *_table(series)]) + "\n")
    return "\n".join(parts)


def _table(series: tuple[Series, ...]) -> Iterator[str]:
    yield "| name | type | labels | unit | meaning | empty |"
    yield "|---|---|---|---|---|---|"
    for each in series:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        yield f"| `{each.name}` | {each.kind} | {labels} | {each.unit} | {each.meaning} | {each.empty or 'never'} |"


written = page()
if sys.argv[1:] == ["--check"]:
    if not PAGE.exists() or PAGE.read_text() != written:
        sys.exit(f"{PAGE} is not up to date: run `make generate`")
else:
    PAGE.write_text(written)
