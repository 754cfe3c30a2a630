"""Waiting for agents, with launchers and a fleet that are only asked what they see."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from coordinator import config
from coordinator.fleet import gathering
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.gathering import gather, hosts_keyring
from coordinator.fleet.hostfile import Host, Hostfile
from coordinator.fleet.launcher import Launcher
from worker.errors import ClusterError, ConfigError
from worker.links.keyring import Keyring


class Seen:
    """Which hosts are silent, as a fleet says it."""

    def __init__(self, *silent: str, objection: str | None = None) -> None:
        self.hosts = list(silent)
        self.problem = objection

    def silent(self) -> list[str]:
        return self.hosts

    absent = silent

    def objection(self) -> str | None:
        return self.problem

    async def changed(self) -> None:
        await asyncio.sleep(0.001)


class Started:
    """A launcher by what it says of itself."""

    def __init__(self, name: str, error: str = "", failures: int = 0) -> None:
        self.name, self.error, self.failures, self.last_words = name, error, failures, "some words"
        self.restarts = 0

    def again(self) -> None:
        self.restarts += 1


def wait_for(seen: Seen, *launchers: Started, limit: float | None = None) -> None:
    work = gathering._until_present(cast(Fleet, seen), cast(Any, launchers), limit=limit)  # pyright: ignore[reportPrivateUsage]
    asyncio.run(asyncio.wait_for(work, 5))


def test_an_agents_own_reason_is_told_at_once() -> None:
    with pytest.raises(ConfigError, match="host b: its key is unknown"):
        wait_for(Seen("a", "b"), Started("a"), Started("b", error="its key is unknown"))


def test_a_launcher_that_fails_again_and_again_ends_the_wait() -> None:
    with pytest.raises(ClusterError, match="host a: its agent does not stay: some words"):
        wait_for(Seen("a"), Started("a", failures=3))


def test_a_host_that_does_not_agree_ends_the_wait() -> None:
    with pytest.raises(ConfigError, match="host a: has another model"):
        wait_for(Seen("a", objection="host a: has another model"))


def test_agents_that_run_already_are_waited_for_only_so_long_where_somebody_looks() -> None:
    with pytest.raises(ClusterError, match=r"no agent of a, b has come within 0\.05 s"):
        wait_for(Seen("a", "b"), limit=0.05)


def test_the_launcher_of_a_host_that_stays_silent_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "REVIVE_SECONDS", 0.5)
    gone, there = Started("gone"), Started("there")

    async def play() -> None:
        work = gathering._revive(cast(Fleet, Seen("gone")), cast(list[Launcher], [gone, there]))  # pyright: ignore[reportPrivateUsage]
        task = asyncio.create_task(work)
        await asyncio.sleep(2.5)
        task.cancel()

    asyncio.run(play())
    assert gone.restarts == 1
    assert there.restarts == 0


def settings(tmp_path: Path, **flags: Any) -> Any:
    return config.settings(None, {}, {"keys": str(tmp_path / "keys"), **flags})


def test_other_machines_need_keys_and_this_one_does_not(tmp_path: Path) -> None:
    near, far = (Hostfile((Host("a", (ip,)),)) for ip in ("127.0.0.1", "10.0.0.1"))
    assert hosts_keyring(settings(tmp_path), near) is None
    assert hosts_keyring(settings(tmp_path, insecure=True), far) is None
    for hostfile, flags in (
        (far, {}),
        (Hostfile((Host("a"),)), {}),
        (near, {"control": "0.0.0.0:7000"}),
        (near, {"control": "10.0.0.9:7000"}),
    ):
        with pytest.raises(ConfigError, match="stageline keys new"):
            hosts_keyring(settings(tmp_path, **flags), hostfile)
    Keyring(tmp_path / "keys").new()
    assert hosts_keyring(settings(tmp_path), far) is not None


def test_a_host_without_a_known_key_is_named_before_anything_is_started(tmp_path: Path) -> None:
    keyring = Keyring(tmp_path / "keys")
    keyring.new()

    async def play() -> None:
        async with gather(settings(tmp_path), Hostfile((Host("ann@north", ("10.0.0.1",)),))):
            raise AssertionError

    with pytest.raises(ConfigError, match="no key is known of north"):
        asyncio.run(play())
