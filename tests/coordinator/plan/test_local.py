from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from coordinator.cli import root
from coordinator.plan.local import STAGES, local_stages
from coordinator.plan.planner import equal_stages
from coordinator.plan.sources import model_cost
from worker.errors import ConfigError

TINY = model_cost("nano", "4:64")


def test_without_a_lock_stages_are_as_even_as_can_be() -> None:
    assert local_stages(TINY, None, None) == equal_stages(TINY, STAGES)
    assert local_stages(TINY, 3, None) == equal_stages(TINY, 3)


def test_a_lock_is_written_once_and_then_decides(tmp_path: Path) -> None:
    lock = tmp_path / "plan.json"
    first = local_stages(TINY, 3, lock)
    assert first == equal_stages(TINY, 3)
    moved = [first[0][0], first[0][1] - 1], [first[0][1] - 1, first[1][1]], list(first[2])
    text = lock.read_text()
    for (begin, end), (other_begin, other_end) in zip(first, moved, strict=True):
        text = text.replace(f"{begin},\n        {end}\n", f"{other_begin},\n        {other_end}\n", 1)
    lock.write_text(text)
    assert local_stages(TINY, None, lock) == tuple(map(tuple, moved))
    with pytest.raises(ConfigError, match=r"number of stages is 3 there, now it is 2; delete the file"):
        local_stages(TINY, 2, lock)


def test_a_lock_that_plan_wrote_serves_however_the_model_was_named(tmp_path: Path) -> None:
    lock = tmp_path / "plan.json"
    arguments = ["plan", "nano", "--quantize", "4:64", "--stages", "3", "--lock", str(lock)]
    assert CliRunner().invoke(root, arguments, catch_exceptions=False).exit_code == 0
    stages = local_stages(replace(TINY, name="another name"), None, lock)
    assert [stages[0][0], stages[-1][1], len(stages)] == [0, len(TINY.layers), 3]


def test_a_lock_of_another_model_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "plan.json"
    local_stages(TINY, 2, lock)
    with pytest.raises(ConfigError, match="precision"):
        local_stages(model_cost("nano", "8:32"), 2, lock)
