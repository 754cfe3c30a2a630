"""The directory for sockets, and the lock: what systems clean up is made again or lies elsewhere."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from worker.agent import lock, runtime
from worker.agent.lock import Lock
from worker.agent.runtime import Runtime
from worker.errors import ClusterError, ConfigError


@pytest.fixture
def made() -> Iterator[Runtime]:
    one = Runtime()
    yield one
    one.remove()


def test_it_is_made_again(made: Runtime) -> None:
    (made.path / "socket").touch()
    made.renew()
    assert (made.path / "socket").exists()
    made.remove()
    made.renew()
    assert made.path.stat().st_mode & 0o777 == 0o700


def test_what_somebody_else_put_there_is_not_taken(made: Runtime, tmp_path: Path) -> None:
    made.remove()
    made.path.symlink_to(tmp_path)
    with pytest.raises(ClusterError, match="is somebody else's now: restart this agent"):
        made.renew()
    made.path.unlink()


def test_no_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "PARENT", "/nowhere")
    with pytest.raises(ClusterError, match="no directory for sockets can be made in /nowhere: No such file"):
        Runtime()


@pytest.mark.parametrize(
    ("system", "variable", "place"),
    [
        ("Linux", "", "home/.local/state/stageline"),
        ("Darwin", "", "home/Library/Application Support/stageline"),
        ("Linux", "elsewhere", "elsewhere/stageline"),
    ],
)
def test_the_lock_is_where_nothing_cleans_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, variable: str, place: str
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / variable) if variable else "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("platform.system", lambda: system)
    assert lock.state_directory() == tmp_path / place
    one, two = Lock("here", "tcp://127.0.0.1:9"), Lock("here", "tcp://127.0.0.1:9")
    assert one.take()
    assert not two.take()
    assert len(list((tmp_path / place).iterdir())) == 1
    one.release()
    assert two.take()
    two.release()
    assert list((tmp_path / place).iterdir()) == []


def test_a_lock_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="lock cannot be made: Not a directory; let this user write there, or set"):
        Lock("here", "tcp://127.0.0.1:9").take()
