"""`stageline keys`, by hand and over ssh. The ssh of these tests runs its command here, with a home per host."""

import json
import os
import shlex
import stat
import sys

import pytest

from coordinator.cli import run
from worker.links.keyring import Keyring

SSH = """#!/bin/sh
# the last two words are the host and the command
while [ $# -gt 2 ]; do shift; done
[ "$1" = closed ] && { echo "ssh: connect to host $1 port 22: Connection refused" >&2; exit 255; }
[ "$1" = bare ] && { echo "No module named coordinator" >&2; exit 1; }
HOME=$HOMES/${1#*@} exec sh -c "$2"
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Of the coordinator's user; those of other hosts are beside it."""
    for name in ("STAGELINE_KEYS", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HOMES", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    ssh = tmp_path / "bin/ssh"
    ssh.parent.mkdir()
    ssh.write_text(SSH)
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
    return tmp_path / "home"


def of(home, name="home"):
    return Keyring(home.parent / name / ".config/stageline/keys")


def keys(capsys, *arguments):
    """Exit status, stdout, stderr."""
    status = run(["keys", *arguments])
    done = capsys.readouterr()
    return status, done.out, done.err


def test_by_hand(home, capsys, tmp_path):
    other = ["--keys", str(tmp_path / "other")]
    status, own, _ = keys(capsys, "new")
    assert (status, own.strip()) == (0, of(home).public)
    status, public, hint = keys(capsys, "add", "--coordinator", own.strip(), *other)
    assert (status, public.strip()) == (0, Keyring(tmp_path / "other").public)
    assert hint.strip().endswith(f"stageline keys add NAME {shlex.quote(public.strip())}")
    assert keys(capsys, "add", "studio-1", public.strip()) == (0, "studio-1 may take part\n", "")
    assert of(home).key_of("studio-1") == public.strip()
    assert keys(capsys, "list") == (0, f"(own)          {own}studio-1       {public}", "")
    assert keys(capsys, "list", *other) == (0, f"(own)          {public}(coordinator)  {own}", "")
    assert keys(capsys, "revoke", "studio-1") == (0, "studio-1 may not take part any more\n", "")
    assert of(home).names() == ()


def test_a_pair_is_not_replaced_by_chance(home, capsys):
    _, first, _ = keys(capsys, "new")
    status, _, error = keys(capsys, "new")
    assert status == 2
    assert "--replace makes new ones" in error
    assert of(home).public == first.strip()
    status, second, _ = keys(capsys, "new", "--replace")
    assert status == 0
    assert second != first


def test_keys_that_cannot_be_used_are_not_replaced(home, capsys):
    _, first, _ = keys(capsys, "new")
    of(home).directory.chmod(0o777)
    status, shown, error = keys(capsys, "new", "--replace")
    assert (status, shown) == (2, "")
    assert "other users can write there" in error
    of(home).directory.chmod(0o700)
    assert of(home).public == first.strip()


def test_no_coordinator_is_trusted_where_own_keys_cannot_be_used(home, capsys):
    _, own, _ = keys(capsys, "new")
    (of(home).directory / "secret").chmod(0o644)
    status, shown, error = keys(capsys, "add", "--coordinator", own.strip())
    assert (status, shown) == (2, "")
    assert "other users can read it" in error
    assert not of(home).knows_coordinator


def test_the_environment_names_the_directory(home, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("STAGELINE_KEYS", str(tmp_path / "elsewhere"))
    assert keys(capsys, "new")[0] == 0
    assert stat.S_IMODE((tmp_path / "elsewhere/secret").stat().st_mode) == 0o600


def test_all_hosts_at_once_and_again(home, capsys, tmp_path):
    hostfile = tmp_path / "hosts.json"
    hostfile.write_text(json.dumps([{"ssh": "127.0.0.1"}, {"ssh": "me@studio-1"}, {"ssh": "studio-2"}]))
    for name in ("studio-1", "studio-2"):
        (tmp_path / name).mkdir()
    for _ in range(2):
        status, said, error = keys(capsys, "add", "--hosts", str(hostfile))
        assert (status, error) == (0, "")
        assert said.splitlines() == [f"{name} may take part" for name in ("127.0.0.1", "studio-1", "studio-2")]
        known = {name: of(home).key_of(name) for name in of(home).names()}
        here = of(home).public
        theirs = {name: of(home, name).public for name in ("studio-1", "studio-2")}
        assert known == {"127.0.0.1": here, **theirs}
        assert {of(home, name).coordinator for name in ("home", "studio-1", "studio-2")} == {here}
        assert len(set(known.values())) == 3


def test_the_directory_is_the_same_on_the_hosts(home, capsys, tmp_path):
    hostfile = tmp_path / "hosts.json"
    hostfile.write_text(json.dumps({"hosts": [{"ssh": "studio-1"}], "envs": [f"XDG_CONFIG_HOME={tmp_path}"]}))
    assert keys(capsys, "add", "--hosts", str(hostfile), "--keys", "~/mine")[0] == 0
    assert Keyring(home / "mine").names() == ("studio-1",)


def test_a_host_that_cannot_be_done_is_named_with_its_fix(home, capsys, tmp_path):
    hostfile = tmp_path / "hosts.json"
    hostfile.write_text(json.dumps([{"ssh": "closed"}, {"ssh": "studio-2"}, {"ssh": "bare"}]))
    status, _, error = keys(capsys, "add", "--hosts", str(hostfile), "--python", sys.executable)
    assert status == 2
    assert "host closed: ssh: connect to host closed port 22: Connection refused: start its ssh server" in error
    assert (
        f"host bare: {sys.executable} has no stageline: install it there, or name another Python with --python" in error
    )
    assert error.strip().endswith("(studio-2 done)")
    assert of(home).names() == ("studio-2",)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["add"], "give NAME and KEY, or --coordinator KEY, or --hosts FILE"),
        (["add", "studio-1"], "give NAME and KEY"),
        (["add", "studio-1", "x", "--hosts", "hosts.json"], "give NAME and KEY"),
        (["add", "studio-1", "x", "--python", "python3"], "--python goes with --hosts"),
        (["add", "studio-1", "x"], "'x': not a key"),
        (["add", "--hosts", "none.json"], "none.json: cannot be read"),
        (["revoke", "studio-1"], "studio-1 is not on the list of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said(home, capsys, arguments, says):
    status, _, error = keys(capsys, *arguments)
    assert status == 2
    assert says in error
    assert not home.exists()


def test_a_host_without_keys(home, capsys):
    assert keys(capsys, "list") == (
        0,
        "",
        f"no keys of its own in {of(home).directory}: `stageline keys new` makes them\n",
    )
