"""`stageline doctor` as a user types it."""

import json
import socket

import msgspec
import pytest

from coordinator.cli import run
from coordinator.doctor.report import Report
from coordinator.fleet import gathering
from coordinator.plan.machine_file import read_machines
from tests.checkpoints import make
from worker.checkpoint.model_hash import model_hash


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "configuration"))
    monkeypatch.setenv("STAGELINE_PORT", "0")
    monkeypatch.delenv("STAGELINE_KEYS", raising=False)


def test_json(capsys):
    assert run(["doctor", "--json"]) == 0
    text = capsys.readouterr().out
    report = msgspec.json.decode(text, type=Report)
    (host,) = report.hosts
    assert host.name == ""
    assert {"versions", "backend", "memory", "ports"} <= {finding.check for finding in host.findings}
    assert set(json.loads(text)) == {"failed", "hosts", "between", "round_trips"}
    assert not report.failed


def test_a_checkpoint_is_found_and_named_by_its_hash(capsys, tmp_path):
    directory = make(tmp_path / "model")
    assert run(["doctor", str(directory), "--json"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    (finding,) = [each for each in report.hosts[0].findings if each.check == "model"]
    assert finding.level == "ok"
    assert f"hash {model_hash(str(directory))[:16]}" in finding.found


def test_the_table_has_every_finding_and_its_fix(capsys, monkeypatch):
    monkeypatch.setenv("MLX_METAL_FAST_SYNCH", "1")
    assert run(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    row = next(number for number, line in enumerate(lines) if line.startswith("warn  environment"))
    assert lines[row + 1].strip() == "-> unset MLX_METAL_FAST_SYNCH"
    assert lines[0].startswith("this machine: ")
    assert lines[-1].endswith("0 fail")


def test_a_failure_is_the_exit_status(capsys, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setenv("STAGELINE_PORT", str(other.getsockname()[1]))
        assert run(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "fail  ports" in text
    assert text.rstrip().endswith("1 fail")


def test_an_open_address_without_a_key_is_a_finding(capsys, monkeypatch):
    """Images have it set, and only `up` serves."""
    monkeypatch.setenv("STAGELINE_HOST", "0.0.0.0")
    assert run(["doctor", "--json"]) == 1
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    (finding,) = [each for each in report.hosts[0].findings if each.level == "fail"]
    assert finding.check == "ports"
    assert "`up` refuses: --host 0.0.0.0 lets other machines in" in finding.found
    monkeypatch.setenv("STAGELINE_API_KEY", "k")
    assert run(["doctor", "--json"]) == 0


def test_agents_that_do_not_come_are_a_finding(capsys, caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(gathering, "CHECK_SECONDS", 1.5)  # its clock ticks once a second
    monkeypatch.setattr(gathering, "TELL_SECONDS", 0.1)
    hosts = tmp_path / "hosts.json"
    hosts.write_text('[{"ssh": "north"}, {"ssh": "south"}]')  # as `up --no-launch` takes it
    words = ["--no-launch", "--control", "127.0.0.1:0", "--insecure", "--json"]
    assert run(["doctor", "--hosts", str(hosts), *words]) == 1
    (finding,) = msgspec.json.decode(capsys.readouterr().out, type=Report).between
    assert (finding.check, finding.level) == ("hosts", "fail")
    assert "north, south" in finding.found
    assert "waiting for the agents of north, south" in caplog.messages


def test_what_was_measured_is_a_file_for_plan(capsys, tmp_path):
    path = tmp_path / "machines.toml"
    assert run(["doctor", "--measure", "--machines", str(path), "--json"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    (device,) = report.hosts[0].devices
    assert device.bandwidth > 1e9
    assert "bandwidth" in {finding.check for finding in report.hosts[0].findings}
    (machine,) = read_machines(path)
    assert machine.memory == device.memory_bytes
    assert machine.bandwidth == pytest.approx(device.bandwidth)
    assert run(["plan", str(make(tmp_path / "model")), "--machines", str(path), "--stages", "2", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["machine"] for stage in stages] == [machine.name] * 2


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--machines", "m.toml"], "--machines writes what --measure finds: give both"),
        (["--measure", "--machines", "."], "exists already; name a new file"),
        (["--hosts", "none.json"], "--hosts none.json: cannot be read"),
        (["--control", "nonsense"], "nonsense"),
        (["--frobnicate"], "No such option"),
    ],
)
def test_wrong_usage(capsys, arguments, problem):
    assert run(["doctor", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert problem in said.err


def test_hosts_that_cannot_be_reached_are_a_failure_beside_what_was_found_here(capsys, tmp_path):
    hosts = tmp_path / "hosts.json"
    hosts.write_text('{"hosts": [{"ssh": "nowhere.invalid", "ips": ["192.0.2.1"]}]}')
    assert run(["doctor", "--hosts", str(hosts), "--json"]) == 1
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    (finding,) = report.between
    assert (finding.check, finding.level) == ("hosts", "fail")
    assert "there are no keys" in finding.found
    assert "keys" in {each.check for each in report.hosts[0].findings if each.level == "fail"}


def test_a_host_is_looked_at_by_its_agent(capsys, tmp_path):
    """By mlx.launch, as `up` starts it; the hosts of tests/hosts are reached by ssh."""
    hosts, model = tmp_path / "hosts.json", str(make(tmp_path / "model"))
    hosts.write_text('[{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}]')
    assert run(["doctor", model, "--hosts", str(hosts), "--insecure", "--json"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=Report)
    here, there = report.hosts
    assert (here.name, there.name) == ("", "127.0.0.1")
    assert {"versions", "backend", "memory"} <= {finding.check for finding in there.findings}
    assert there.versions == here.versions
    found = {finding.check: finding for finding in report.between}
    assert list(found) == ["hosts", "same_versions", "same_model", "clocks", "model"]
    assert model_hash(model)[:16] in found["same_model"].found
