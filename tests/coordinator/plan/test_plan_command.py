"""`stageline plan` as a user types it."""

import json

import pytest

from coordinator.cli import run

TWO = ("--machine", "2 x M3 Ultra 256")
STAGE_KEYS = {
    "stage",
    "layers",
    "pattern",
    "resident_bytes",
    "bytes_read_per_token",
    "predicted_step_seconds",
    "machine",
}


def planned(capsys, *arguments):
    assert run(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys, *arguments):
    assert run(["plan", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("stageline: error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.mark.parametrize(
    ("name", "layers", "stages"), [("nano", 52, 8), ("super", 88, 3), ("ultra", 108, 8), ("super", 88, 1)]
)
def test_json(capsys, name, layers, stages):
    plan = planned(capsys, name, "--quantize", "8:32", "--machine", f"{stages} x M3 Ultra 1024")
    assert plan["parameters"] == {"nano": 31577940288, "super": 120668707840, "ultra": 549308993536}[name]
    assert plan["parameters_read_per_token"] < plan["parameters"]
    assert plan["bytes_read_per_token"] == pytest.approx(sum(s["bytes_read_per_token"] for s in plan["stages"]), abs=9)
    assert all(set(stage) >= STAGE_KEYS for stage in plan["stages"])
    assert [stage["stage"] for stage in plan["stages"]] == list(range(stages))
    bounds = [stage["layers"] for stage in plan["stages"]]
    assert [layer for first, end in bounds for layer in range(first, end)] == list(range(layers))
    assert [len(stage["pattern"]) for stage in plan["stages"]] == [end - first for first, end in bounds]
    assert len({stage["machine"] for stage in plan["stages"]}) == stages
    assert plan["problem"] is None


def test_where_up_would_serve_is_nothing_to_a_plan(capsys, monkeypatch):
    """Images have it set."""
    monkeypatch.setenv("STAGELINE_HOST", "0.0.0.0")
    assert planned(capsys, "super", *TWO)["problem"] is None


def test_super_reads_what_is_published(capsys):
    plan = planned(capsys, "super", *TWO)
    assert f"{plan['parameters'] / 1e9:.2f}" == "120.67"
    assert f"{plan['parameters_read_per_token'] / 1e9:.2f}" == "12.23"
    assert f"{plan['bytes_read_per_token'] / 1e9:.2f}" == "14.17"


def test_table_explanation_and_forecast(capsys):
    assert run(["plan", "super", *TWO, "--explain", "--simulate", "--answer-tokens", "16"]) == 0
    text = capsys.readouterr().out
    assert "120.67 B parameters, 12.23 B and 14.17 GB read per token" in text
    assert "21M 21E 4*" in text
    assert "one user is served faster by M3 Ultra 256" in text
    assert "692 GB/s (84.5% of 819)" in text
    assert "4.3% at 1" in text
    assert "predicted by simulation" in text


def test_without_machines_the_plan_is_shown_even_if_it_does_not_fit(capsys):
    plan = planned(capsys, "ultra", "--quantize", "none", "--stages", "3")
    assert len(plan["stages"]) == 3
    assert "ultra (bfloat16) does not fit on 1 machine: weights of 1.1 TB" in plan["problem"]


def test_one_named_machine_runs_all_stages(capsys):
    plan = planned(capsys, "super", "--machine", "M3 Ultra 512", "--stages", "4")
    assert len({stage["machine"] for stage in plan["stages"]}) == 1
    assert len(plan["stages"]) == 4


def test_latency_takes_as_few_machines_as_are_best(capsys):
    four = ("--machine", "4 x M3 Ultra 512", "--objective", "latency")
    assert len(planned(capsys, "super", *four)["stages"]) == 1
    assert len(planned(capsys, "ultra", *four)["stages"]) == 2  # one does not hold it
    assert len(planned(capsys, "super", *four, "--stages", "4")["stages"]) == 4


def test_a_machine_that_holds_no_layer_is_left_out(capsys):
    plan = planned(capsys, "super", *TWO, "--machine", "M1 Max 0.05")
    assert [stage["machine"] for stage in plan["stages"]] == ["M3 Ultra 256 #1", "M3 Ultra 256 #2"]


def test_an_impossible_plan_is_explained(capsys):
    said = refused(capsys, "super", "--machine", "2 x M4 Max 64")
    for piece in ("weights of 136 GB", "it lacks 16.9 GB", "--quantize 6:64", "3 such machines"):
        assert piece in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["super", *TWO, "--machines", "x.toml"], "one of --machine, --machines and --hosts"),
        (["super", *TWO, "--link", "rope"], "link 'rope'"),
        (["super", "--link", "wifi"], "--link is about --machine"),
        (["super", *TWO, "--context", "300000"], "at most 262144 tokens"),
        (["super", *TWO, "--batch", "4", "--sequences", "2"], "less than --batch 4"),
        (["super", *TWO, "--stages", "3"], "3 stages for 2 machines"),
        (["super", "--stages", "89"], "--stages 1 to 88"),
        (["super", "--quantize", "9:9"], "expected BITS:GROUP"),
        (["nowhere"], "no such directory"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_the_users(capsys, arguments, problem):
    assert problem in refused(capsys, *arguments)


def test_a_lock_is_written_once_and_then_used(capsys, tmp_path):
    lock = tmp_path / "plan.lock"
    first = planned(capsys, "super", *TWO, "--lock", str(lock))
    content = lock.read_text()
    content = content.replace("46", "40")  # as if a past planner had cut elsewhere
    lock.write_text(content)
    again = planned(capsys, "super", *TWO, "--lock", str(lock))
    assert first["stages"][0]["layers"] == [0, 46]
    assert again["stages"][0]["layers"] == [0, 40]
    assert lock.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nano", *TWO], "pattern is 'MEMEMEM"),
        (["super", "--quantize", "4:64", *TWO], "precision is '8:32' there"),
        (["super", "--machine", "2 x M4 Max 128"], "are on 'M3 Ultra 256 #1'"),
        (["super", *TWO, "--stages", "1"], "number of stages is 2 there"),
        (["super", *TWO, "--objective", "latency"], "objective is 'throughput' there"),
        (["super", *TWO, "--context", "262144", "--sequences", "200"], "up to layer 45 and has 206 GB usable"),
    ],
    ids=["model", "precision", "machine", "stages", "objective", "memory"],
)
def test_a_lock_that_does_not_fit_is_refused(capsys, tmp_path, arguments, problem):
    lock = tmp_path / "plan.lock"
    planned(capsys, "super", *TWO, "--lock", str(lock))
    said = refused(capsys, *arguments, "--lock", str(lock))
    assert problem in said
    assert "delete the file to plan anew" in said


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ('"version": 1', '"version": 2', "version is 2"),
        ("88", "87", "layers"),
        ("46", "47,46", "not a lock file"),
        ('"objective"', '"aim"', "not a lock file"),
    ],
)
def test_a_lock_that_was_edited_badly_is_refused(capsys, tmp_path, before, after, problem):
    lock = tmp_path / "plan.lock"
    planned(capsys, "super", *TWO, "--lock", str(lock))
    lock.write_text(lock.read_text().replace(before, after, 1))
    assert problem in refused(capsys, "super", *TWO, "--lock", str(lock))


def test_a_lock_that_cannot_be_written_is_refused(capsys, tmp_path):
    assert "cannot be written" in refused(capsys, "super", *TWO, "--lock", str(tmp_path / "none" / "plan.lock"))
