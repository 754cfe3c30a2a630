"""docs/protocol.md names every message and every field of it, and no other."""

import re
from pathlib import Path
from typing import get_args

import pytest

from worker.agent.messages import FromAgent, ToAgent
from worker.protocol import BackOnLink, FromWorker, OnLink, ToWorker

PAGE = (Path(__file__).parents[2] / "docs/protocol.md").read_text(encoding="utf-8")
LINKS = {
    "Worker to coordinator:": get_args(FromWorker),
    "Coordinator to worker:": get_args(ToWorker),
    "and there are:": tuple(
        kind for kind in get_args(OnLink | BackOnLink) if kind not in get_args(ToWorker | FromWorker)
    ),
    "Agent to coordinator:": get_args(FromAgent),
    "Coordinator to agent:": get_args(ToAgent),
}


@pytest.mark.parametrize("title", LINKS, ids=lambda title: title.strip(":"))
def test_a_table_has_all_kinds_and_fields(title):
    table = PAGE.partition(f"{title}\n\n")[2].partition("\n\n")[0].splitlines()[2:]
    rows = [[*re.split(r" *\| *", line.strip("| ")), ""] for line in table]
    written = {row[0].strip("`"): set(re.findall(r"`(\w+)`", row[2])) for row in rows}
    kinds = {kind.__struct_config__.tag: set(kind.__struct_fields__) for kind in LINKS[title]}
    assert written == kinds
