"""What a host says of its devices, from what its commands print."""

import pytest

from worker import hardware
from worker.agent.messages import Device

TWO_CARDS = "0, GPU-aa11, 143771, NVIDIA H200\n1, GPU-bb22, 143771, NVIDIA H200"


@pytest.fixture
def nvidia_smi(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def prints(text: str) -> None:
        monkeypatch.setattr(hardware, "said", lambda *command: text if command[0] == "nvidia-smi" else "")

    return prints


def test_every_card_is_a_device(nvidia_smi) -> None:
    nvidia_smi(TWO_CARDS)
    size = 143771 * 2**20
    assert hardware.devices() == tuple(Device(chip="NVIDIA H200", memory_bytes=size, card=card) for card in (0, 1))


@pytest.mark.parametrize(
    ("visible", "cards"),
    [("1", [1]), ("0,1", [0, 1]), ("GPU-bb", [1]), ("", []), ("-1", []), ("7", []), (" 0 , GPU-bb22", [0, 1])],
)
def test_hidden_cards_are_left_out(nvidia_smi, monkeypatch: pytest.MonkeyPatch, visible: str, cards: list[int]) -> None:
    nvidia_smi(TWO_CARDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.card for card in hardware.nvidia_cards()] == cards


def test_a_chip_that_shares_the_machines_memory(nvidia_smi) -> None:
    nvidia_smi("0, GPU-cc33, [N/A], NVIDIA GB10")
    assert hardware.devices() == (Device(chip="NVIDIA GB10", memory_bytes=hardware.memory_bytes(), card=0),)


def test_a_mac_is_its_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    monkeypatch.setattr(hardware, "said", lambda *command: "Apple M3 Ultra" if command[0] == "sysctl" else "")
    assert hardware.devices() == (Device(chip="M3 Ultra", memory_bytes=hardware.memory_bytes()),)


@pytest.mark.parametrize("text", ["", "No devices were found", "0, GPU-aa11"])
def test_a_host_without_a_gpu_is_its_processor(nvidia_smi, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    nvidia_smi(text)
    (device,) = hardware.devices()
    assert device.card is None
    assert device.memory_bytes == hardware.memory_bytes()
    assert device.bandwidth > 1e8


@pytest.mark.parametrize(
    ("command", "text"),
    [(["echo", "one"], "one"), (["no-such-command"], ""), (["false"], ""), (["sleep", "5"], "")],
    ids=["works", "missing", "fails", "hangs"],
)
def test_what_a_command_says(monkeypatch: pytest.MonkeyPatch, command: list[str], text: str) -> None:
    monkeypatch.setattr(hardware, "SECONDS", 0.5)
    assert hardware.said(*command) == text
