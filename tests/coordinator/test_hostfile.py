import json
from pathlib import Path
from typing import Any

import pytest

from coordinator.fleet.hostfile import Host, read_hostfile
from worker.errors import ConfigError

NORTH = {"ssh": "ann@north", "ips": ["10.0.0.1", "10.1.0.1"], "rdma": [None, "rdma_en2"]}
SOUTH = {"ssh": "south", "ips": ["10.0.0.2"]}


def written(directory: Path, content: Any) -> Path:
    path = directory / "hosts.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("whole", [False, True], ids=["list", "object"])
def test_both_forms_of_mlx_launch(tmp_path: Path, whole: bool) -> None:
    hosts = [NORTH, SOUTH]
    found = read_hostfile(
        written(tmp_path, {"backend": "ring", "envs": ["A=1", "_b2=x=\n y"], "hosts": hosts} if whole else hosts)
    )
    assert found.hosts == (Host("ann@north", ("10.0.0.1", "10.1.0.1")), Host("south", ("10.0.0.2",)))
    assert [host.name for host in found.hosts] == ["north", "south"]
    assert found.envs == (("A=1", "_b2=x=\n y") if whole else ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("x", "JSON is malformed"),
        ({"host": []}, "missing required field `hosts`"),
        ([], "names no host"),
        ([{"ips": ["10.0.0.1"]}], "missing required field `ssh`"),
        ([NORTH, {"ssh": "bob@north", "ips": ["10.0.0.9"]}], "north is there twice"),
        ([NORTH, {"ssh": "south", "ips": ["10.0.0.1"]}], "north and south both have the address 10.0.0.1"),
        ([{"ssh": "north"}], "north has no ips"),
        ([{"ssh": "north", "ips": ["north.local"]}], "'north.local' is not an IP address"),
        ([NORTH, {"ssh": "south", "ips": ["127.0.0.1"]}], "south: only that machine itself reaches 127.0.0.1"),
        ([NORTH, {"ssh": "south", "ips": ["0.0.0.0"]}], "south: 0.0.0.0 is no address of one host"),
        ([NORTH, {"ssh": "south", "ips": ["224.0.0.1"]}], "south: 224.0.0.1 is no address of one host"),
        ([{"ssh": "-oProxyCommand=x", "ips": ["10.0.0.1"]}], "would be an option to ssh"),
        ([{"ssh": "no rth", "ips": ["10.0.0.1"]}], "is no name that ssh takes"),
        ([{"ssh": "", "ips": ["10.0.0.1"]}], "is no name that ssh takes"),
        ({"hosts": [SOUTH], "envs": ["=1"]}, "envs: '' is not NAME=value"),
        ({"hosts": [SOUTH], "envs": ["NAME"]}, "envs: 'NAME' is not NAME=value"),
        ({"hosts": [SOUTH], "envs": ["N\u00c4ME=1"]}, "envs: 'N\u00c4ME' is not NAME=value"),
        ({"hosts": [SOUTH], "envs": ["1A=1"]}, "envs: '1A' is not NAME=value"),
        ({"hosts": [SOUTH], "envs": ["TOKEN=a\0b"]}, "envs: 'TOKEN' is not NAME=value"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_wrong_is_said_with_the_file(tmp_path: Path, content: Any, says: str) -> None:
    path = written(tmp_path, content)
    with pytest.raises(ConfigError) as refused:
        read_hostfile(path)
    assert str(path) in refused.value.message
    assert says in refused.value.message


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.json: cannot be read"):
        read_hostfile(tmp_path / "nowhere.json")


def test_one_machine_may_play_several_hosts(tmp_path: Path) -> None:
    hosts = [{"ssh": "127.0.0.1", "ips": ["127.0.0.1"]}, {"ssh": "again", "ips": ["127.0.0.2"]}]
    assert len(read_hostfile(written(tmp_path, hosts)).hosts) == 2


def test_agents_that_run_already_tell_their_own_addresses(tmp_path: Path) -> None:
    assert read_hostfile(written(tmp_path, [{"ssh": "north"}]), addressed=False).hosts == (Host("north"),)
