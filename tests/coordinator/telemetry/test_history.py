from typing import Any

import msgspec

from coordinator.telemetry.history import History
from coordinator.view import ClusterView
from tests.coordinator.scripted import view

START = 1000.0
NOW = 1100.0


def filled(*views: ClusterView, kept: int = 450, generated: int = 50) -> History:
    """One sample each two seconds, `generated` more tokens each time."""
    history = History(now=START, kept=kept)
    for number, each in enumerate(views, 1):
        history.add(START + 2 * number, each, generated * number)
    return history


def running(steps: int, **changed: Any) -> ClusterView:
    numbers = {"busy": 0.5, "wait": 0.25, "transfer": 0.125, "decode_p50": 0.001, "decode_p95": 0.002}
    return view(**{"decode_steps": steps, "hop_seconds": 0.0001, "memory_bytes": 7, **numbers, **changed})


def second_stage(history: History) -> Any:
    return history.since(None, NOW)["stages"][1]  # type: ignore[index]


def test_columns() -> None:
    history = filled(running(1), running(2))
    got = history.since(None, NOW)
    assert got["seconds"] == [1002.0, 1004.0]
    assert (got["tokens_per_second"], got["running"], got["waiting"]) == ([25.0, 25.0], [1, 1], [0, 0])
    assert history.tokens_per_second == 25.0
    assert second_stage(history) == {
        "busy": [0.5, 0.5],
        "wait": [0.25, 0.25],
        "transfer": [0.125, 0.125],
        "p50": [0.001, 0.001],
        "p95": [0.002, 0.002],
        "hop": [0.0001, 0.0001],
        "memory_bytes": [7, 7],
        "up": [True, True],
    }


def test_prompt_positions_are_those_of_the_first_stage_whichever_worker_it_has() -> None:
    first = view().stages[0]
    views = []
    for rows in (100, 500, 500, 40):
        stages = (msgspec.structs.replace(first, rows_prefilled=rows), *view(rows_prefilled=9).stages[1:])
        views.append(msgspec.structs.replace(view(), stages=stages))
    assert filled(*views).since(None, NOW)["prefill_tokens_per_second"] == [50.0, 200.0, 0.0, 20.0]


def test_a_stage_that_is_not_ready_has_no_numbers() -> None:
    columns = second_stage(filled(running(1), running(1, state="down"), running(2)))
    assert columns.pop("up") == [True, False, True]
    assert all(values[1] is None and values[2] is not None for values in columns.values())


def test_a_stage_that_was_lost_between_two_samples_has_a_gap() -> None:
    got = second_stage(filled(running(1), running(2, restarts=1), running(3, restarts=1)))
    assert got["up"] == [True, False, True]
    assert got["p50"] == [0.001, None, 0.001]


def test_times_are_of_samples_with_decode_steps() -> None:
    columns = second_stage(filled(running(5), running(5), running(6)))
    assert columns["p50"] == [0.001, None, 0.001]
    assert columns["p95"] == [0.002, None, 0.002]
    assert columns["hop"] == [0.0001, None, 0.0001]
    assert columns["busy"] == [0.5, 0.5, 0.5]


def test_since_gives_what_is_newer() -> None:
    history = filled(*map(running, range(5)))
    assert history.since(1006.0, NOW)["seconds"] == [1008.0, 1010.0]
    nothing = history.since(1011.5, NOW)  # when the page asked last
    assert nothing["seconds"] == []
    assert [stage["busy"] for stage in nothing["stages"]] == [[], []]  # type: ignore[attr-defined]


def test_a_time_that_has_not_come_gives_everything() -> None:
    history = filled(*map(running, range(3)))
    assert history.since(NOW + 1, NOW) == history.since(None, NOW)


def test_a_ring() -> None:
    assert filled(*map(running, range(9)), kept=3).since(None, NOW)["seconds"] == [1014.0, 1016.0, 1018.0]


def test_before_the_first_sample() -> None:
    got = History(now=START).since(None, NOW)
    assert (got["seconds"], got["stages"]) == ([], [])
