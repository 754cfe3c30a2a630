"""`stageline plan` as a user types it."""

import json

import pytest

from coordinator.cli import run
from tests.checkpoints import make

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
        (["nano", "--machine", "M3 Ultra 1" + 300 * "0"], "memory_gib is 1e+300"),
        (["super", *TWO, "--batch", "4", "--sequences", "2"], "less than --batch 4"),
        (["super", *TWO, "--stages", "3"], "3 stages for 2 machines"),
        (["super", "--stages", "89"], "--stages 1 to 88"),
        (["nano", "--simulate", "--prompt-tokens", "900", "--context", "1000"], "1028 tokens, longer than the context"),
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
        ('"throughput"', '"beauty"', "Invalid enum value 'beauty'"),
    ],
)
def test_a_lock_that_was_edited_badly_is_refused(capsys, tmp_path, before, after, problem):
    lock = tmp_path / "plan.lock"
    planned(capsys, "super", *TWO, "--lock", str(lock))
    lock.write_text(lock.read_text().replace(before, after, 1))
    assert problem in refused(capsys, "super", *TWO, "--lock", str(lock))


def test_a_lock_that_cannot_be_written_is_refused(capsys, tmp_path):
    assert "cannot be written" in refused(capsys, "super", *TWO, "--lock", str(tmp_path / "none" / "plan.lock"))


@pytest.mark.parametrize("objective", ["throughput", "latency"])
@pytest.mark.parametrize("machine", [(), ("--machine", "M3 Ultra 512")], ids=["this machine", "named"])
def test_a_lock_says_how_many_stages_one_machine_runs(capsys, tmp_path, objective, machine):
    model, lock = str(make(tmp_path / "model")), tmp_path / "plan.lock"
    first = planned(capsys, model, *machine, "--stages", "3", "--objective", objective, "--lock", str(lock))
    again = planned(capsys, model, *machine, "--lock", str(lock))
    assert [stage["layers"] for stage in again["stages"]] == [stage["layers"] for stage in first["stages"]]
    assert (len(again["stages"]), again["sequences"]) == (3, first["sequences"])
    assert again["objective"] == objective


@pytest.mark.parametrize(
    ("option", "value", "most"),
    [
        ("--stages", 10**20, 1024),
        ("--sequences", 10**12, 10**6),
        ("--prompt-tokens", 10**11, 2**20),
        ("--answer-tokens", 10**8, 8192),
    ],
)
def test_absurd_numbers_are_refused(capsys, option, value, most):
    assert run(["plan", "nano", "--simulate", option, str(value)]) == 2
    assert f"'{option}': {value} is not in the range 1<=x<={most}" in capsys.readouterr().err


def test_a_context_holds_a_prompt_and_an_answer(capsys):
    assert run(["plan", "nano", *TWO, "--context", "1"]) == 2
    assert "'--context': 1 is not in the range x>=2" in capsys.readouterr().err


def test_the_largest_numbers_are_planned(capsys):
    assert "state for 1000000 sequences of 262144 positions" in refused(
        capsys, "ultra", *TWO, "--sequences", "1000000", "--context", "262144"
    )


@pytest.mark.parametrize("objective", ["throughput", "latency"])
def test_more_machines_than_layers(capsys, objective):
    plan = planned(capsys, "nano", "--machine", "60 x M3 Ultra 512", "--objective", objective)
    assert len(plan["stages"]) == {"throughput": 52, "latency": 1}[objective]
    assert plan["sequences"] == len(plan["stages"])


def shown(capsys, *arguments):
    assert run(["plan", *arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("order", [(512, 96), (96, 512)])
def test_one_machine_alone_is_told_whatever_the_order(capsys, order):
    said = shown(capsys, "super", *(each for gib in order for each in ("--machine", f"M3 Ultra {gib}")))
    assert f"one user is served faster by M3 Ultra 512 #{order.index(512) + 1} alone" in said
    assert "all users together" not in said


def test_one_machine_alone_is_told_for_throughput(capsys):
    two = ("nano", "--machine", "2 x H200", "--link", "wifi")
    alone = planned(capsys, "nano", "--machine", "H200")["predicted_tokens_per_second_full"]
    together = planned(capsys, *two)["predicted_tokens_per_second_full"]
    line = "all users together are served faster by H200 140.4 #1 alone, which holds the whole model: "
    assert f"{line}{alone:.1f} tok/s against {together:.1f}" in shown(capsys, *two)


def machines_file(tmp_path, *lines):
    path = tmp_path / "machines.toml"
    path.write_text("\n".join(["[[machine]]", "chip = 'M3 Ultra'", "memory_gib = 512", *lines]))
    return "--machines", str(path)


@pytest.mark.parametrize("name", ["studio [/lab]", "studio [lab]", "[red]", "a :smile:", "back\\"])
def test_names_are_shown_as_they_are(capsys, tmp_path, name):
    said = shown(capsys, "nano", *machines_file(tmp_path, f"name = {json.dumps(name)}"), "--explain")
    assert f" {name} " in said  # in the table
    assert f"stage 0 on {name}:" in said


def test_a_models_name_is_shown_as_it_is(capsys, tmp_path):
    directory = tmp_path / "Nano-[v2]\x1b[31m"
    said = shown(capsys, str(make(directory)), *TWO, "--explain")
    assert said.count("Nano-[v2]?[31m") == 2
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["\x1b[31mred", "first\nsecond", "\u202eback"])
def test_names_that_would_steer_a_terminal_are_refused(capsys, tmp_path, name):
    said = refused(capsys, "nano", *machines_file(tmp_path, f"name = {json.dumps(name)}"))
    assert f"machine 1: its name {name!a} has characters that cannot be printed" in said


@pytest.mark.parametrize(
    "figure",
    ["layer_us = 1e9", "compute_tflops = 1e-300", "read = 1e-300\nbandwidth_gbs = 1e-300", "latency_us = 1e300"],
)
def test_figures_that_cannot_be_are_refused(capsys, tmp_path, figure):
    said = refused(capsys, "nano", *machines_file(tmp_path, "name = 'studio'", figure))
    assert "machine 1, studio: a token would take" in said
    assert figure.split()[0] in said
