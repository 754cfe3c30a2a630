"""A room for every module, with keys for all hosts at the desk."""

import shutil

import pytest

from coordinator.demo import demo_model
from tests.hosts.room import Room, require_machines, shown
from tests.hosts.running import attempt, hostfile


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """The demo model, where everybody can read it."""
    require_machines()
    directory = tmp_path_factory.mktemp("model") / "demo"
    shutil.copytree(demo_model(), directory)
    directory.chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def room(model, tmp_path_factory):
    """Three hosts and a desk, where this thread's sockets are, too."""
    with Room(tmp_path_factory.mktemp("room"), shown=shown(model)).running() as room, room.desk.network():
        yield room


@pytest.fixture(scope="module")
def keys(room):
    """Every host has keys, and desk and hosts know each other's: as docs/clusters.md says."""
    status, said = attempt(room, "keys", "add", "--hosts", hostfile(room, room.hosts.values()))
    assert status == 0, said
