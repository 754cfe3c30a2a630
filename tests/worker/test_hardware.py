"""What a host says of its devices, from what its commands print."""

import os
import time
from pathlib import Path

import pytest

from worker import hardware
from worker.agent.messages import Device

TWO_CARDS = "0, GPU-aa11, 143771, NVIDIA H200\n1, GPU-bb22, 143771, NVIDIA H200"


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A program of that name that prints a text, or does something else."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

    def prints(text: str, and_then: str = "") -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'end'\n{text}\nend\n{and_then}\n")
        program.chmod(0o755)

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
    ("text", "and_then", "problem"),
    [
        ("", "exec sleep 5", "does not answer within 0.5 s"),
        ("Failed to initialize NVML", "exit 9", "failed with status 9: Failed to initialize NVML"),
        (TWO_CARDS, "kill -9 $$", "failed with status -9: 0, GPU-aa11"),
    ],
    ids=["too late", "fails", "dies"],
)
def test_cards_that_nobody_can_ask_are_no_missing_cards(
    nvidia_smi, monkeypatch: pytest.MonkeyPatch, caplog, text: str, and_then: str, problem: str
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(hardware, "CARDS_SECONDS", 0.5)
    nvidia_smi(text, and_then)
    began = time.monotonic()
    found = hardware.look()
    assert time.monotonic() - began < 3
    assert [device.card for device in found.devices] == [None]
    assert found.problem.startswith(f"nvidia-smi {problem}")
    assert "see what `nvidia-smi -L` says" in found.problem
    assert (hardware.devices()[0].card, hardware.stage_cards(1)) == (None, ())
    assert caplog.text.count("this machine's NVIDIA cards are not used") == 2


def test_an_nvidia_smi_that_cannot_be_run_is_one_that_failed(nvidia_smi, tmp_path: Path) -> None:
    nvidia_smi("")
    (tmp_path / "nvidia-smi").write_bytes(b"\x7fELF, but not for this processor")
    assert hardware.look().problem.startswith("nvidia-smi cannot be run: ")


@pytest.mark.parametrize("status", [0, 6])
def test_no_cards_are_no_problem(nvidia_smi, status: int) -> None:
    nvidia_smi("No devices were found", f"exit {status}")
    assert hardware.look().problem == ""


def test_without_nvidia_smi_there_is_no_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert hardware.nvidia_cards() == ()
    assert hardware.look().problem == ""


@pytest.mark.parametrize(("stages", "cards"), [(1, (0,)), (2, (0, 1)), (3, ())])
def test_stages_get_cards_if_there_are_enough(nvidia_smi, stages: int, cards: tuple[int, ...]) -> None:
    nvidia_smi(TWO_CARDS)
    assert hardware.stage_cards(stages) == cards


@pytest.mark.parametrize(
    ("command", "text"),
    [(["echo", "one"], "one"), (["no-such-command"], ""), (["false"], ""), (["sleep", "5"], "")],
    ids=["works", "missing", "fails", "hangs"],
)
def test_what_a_command_says(monkeypatch: pytest.MonkeyPatch, command: list[str], text: str) -> None:
    monkeypatch.setattr(hardware, "SECONDS", 0.5)
    assert hardware.said(*command) == text
