"""What is wrong with a hostfile or with a host is said with its name and the fix, and nothing is left running."""

import sys

import pytest
import zmq

from tests.hosts.running import attempt, eventually, hostfile, left_over, stageline

SECRET = ".config/stageline/keys/secret"

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def refused(room, keys, model):
    """Starts a cluster that must not start; returns the line that says why."""

    def run(hosts, *words, **variables):
        hostfile(room, hosts, "wrong.json")
        before = {name: machine.files() for name, machine in room.machines.items()}
        arguments = ("up", str(model), "--hosts", "wrong.json", "--port", "0", *words)
        status, said = attempt(room, *arguments, **variables)
        assert status == 2, said
        eventually(lambda: not left_over(room), 5, lambda: str(left_over(room)))
        new = {name: machine.files() - before[name] for name, machine in room.machines.items()}
        assert not any(new.values()), new
        (error,) = [line for line in said.splitlines() if line.startswith("stageline: error: ")]
        return error

    return run


@pytest.fixture
def known(room, keys):
    """Adds a key of a host that there is not, so that the lack of one is not what is wrong."""

    def add(name):
        public, _ = zmq.curve_keypair()
        status, said = attempt(room, "keys", "add", "--", name, public.decode())
        assert status == 0, said

    return add


def entry(room, name, **changes):
    host = room.hosts[name]
    return {"ssh": f"{host.user}@{host.name}", "ips": [host.address], **changes}


def test_a_host_that_nobody_knows(room, known, refused):
    known("elm")
    error = refused([*room.hosts.values(), {"ssh": "elm", "ips": ["10.77.0.9"]}])
    assert "host elm: " in error
    assert "~/.ssh/config" in error


def test_a_host_that_does_not_answer(room, known, refused):
    known("oak")
    error = refused([*room.hosts.values(), {"ssh": "oak", "ips": ["10.77.0.9"]}])
    assert "host oak: " in error
    assert "check its address" in error


def test_a_host_without_a_key(room, refused):
    error = refused([entry(room, "ash"), {"ssh": "fir", "ips": ["10.77.0.8"]}])
    assert "no key is known of fir" in error
    assert "stageline keys add --hosts" in error


def test_a_host_named_twice(room, refused):
    error = refused([entry(room, "ash"), entry(room, "birch"), entry(room, "ash")])
    assert "ash is there twice" in error


def test_a_host_without_an_address(room, refused):
    error = refused([entry(room, "ash"), entry(room, "birch", ips=[])])
    assert "birch has no ips" in error


def test_an_address_that_is_not_the_hosts(room, refused):
    error = refused([entry(room, "ash"), entry(room, "birch", ips=["10.77.0.77"])])
    assert "birch" in error
    assert "10.77.0.77" in error


def test_a_user_whom_the_host_does_not_know(room, refused):
    error = refused([entry(room, "ash"), entry(room, "birch", ssh="ann@birch")])
    assert "birch" in error
    assert "ssh-copy-id ann@birch" in error


def test_another_version_of_mlx(room, refused):
    # the same path on every host; on one of them another mlx is found first
    for host in room.hosts.values():
        other = f"/home/{host.user}/other:" if host.name == "cedar" else ""
        script = f'#!/bin/sh\nPYTHONPATH="{other}$PYTHONPATH" exec {sys.executable} "$@"\n'
        path = host.temporary / "python"
        path.write_text(script)
        path.chmod(0o755)
    room.hosts["cedar"].write(
        "other/mlx-0.1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: mlx\nVersion: 0.1.0\n"
    )
    error = refused(room.hosts.values(), "--python", "/tmp/python")
    assert "cedar" in error
    assert "ash" not in error
    assert "has mlx 0.1.0" in error


def test_a_host_without_the_interpreter(room, refused):
    error = refused(room.hosts.values(), "--python", "/nowhere/python")
    assert all(name in error for name in room.hosts)
    assert "--python" in error


def test_a_desk_without_keys(room, refused):
    error = refused(room.hosts.values(), STAGELINE_KEYS="/home/dan/no-keys")
    assert "stageline keys new" in error


def test_a_host_whose_key_is_not_the_known_one(room, refused):
    host = room.hosts["birch"]
    text = (host.home / SECRET).read_text()
    host.run(*stageline("keys", "new", "--replace"))
    try:
        error = refused(room.hosts.values())
    finally:
        host.write(SECRET, text, 0o600)
    assert "birch" in error
    assert "stageline keys" in error
