"""When an agent needs keys."""

from pathlib import Path

import pytest

from worker.agent import settings
from worker.agent.settings import AgentSettings, agent_settings


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the user's are."""
    monkeypatch.setenv("STAGELINE_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(settings, "check_address", lambda address: address)  # any machine's
    return tmp_path / "keys"


def made(coordinator: str, address: str | None, *, insecure: bool = False) -> AgentSettings:
    return agent_settings(
        coordinator=f"tcp://{coordinator}:4700", name="here", address=address, keys=None, insecure=insecure, stay=False
    )


@pytest.mark.parametrize("address", [None, "127.0.0.1", "::1"])
@pytest.mark.parametrize("coordinator", ["127.0.0.1", "[::1]", "localhost"])
def test_on_one_machine_it_needs_none(keys: Path, coordinator: str, address: str | None) -> None:
    assert made(coordinator, address).keys is None


@pytest.mark.parametrize(
    ("coordinator", "address"),
    [
        ("127.0.0.1", "10.0.0.2"),
        ("127.0.0.1", "0.0.0.0"),
        ("10.0.0.1", "127.0.0.1"),
        ("10.0.0.1", None),
        ("desk", None),
    ],
)
def test_with_others_it_takes_the_users_own(keys: Path, coordinator: str, address: str | None) -> None:
    assert made(coordinator, address).keys == keys
    assert made(coordinator, address, insecure=True).keys is None
