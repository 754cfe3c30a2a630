"""Checks of Linux and NVIDIA, and those of every system."""

import errno
import platform
import socket
import tomllib
from pathlib import Path

import pytest

from worker.agent.messages import Versions
from worker.checkup import backend, installed, memory
from worker.checkup.backend import WITH_CPU, WITH_CUDA, Live
from worker.checkup.descriptors import descriptors
from worker.checkup.disk import Room, disk, room
from worker.checkup.environment import environment
from worker.checkup.gpu_memory import card_count, gpu_memory
from worker.checkup.local_network import tried
from worker.checkup.sleep import NEVER_SYSTEMD, sleep_linux

PROJECT = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

TWO_CARDS = "0, NVIDIA H200, 143771, 143150\n1, NVIDIA H200, 143771, 20"  # as nvidia-smi prints the query
SHARED_MEMORY = "0, NVIDIA GB10, [N/A], [N/A]"
MEMINFO = "MemTotal:       24684092 kB\nMemFree:        24021680 kB\nMemAvailable:   24216672 kB\n"
BUSY = MEMINFO.replace("24216672", "2421667")


def test_the_versions_are_those_that_the_project_asks_for():
    assert f"mlx=={installed.MLX}" in PROJECT["dependencies"]
    (low, high) = installed.PYTHON
    assert PROJECT["requires-python"] == f">={low[0]}.{low[1]},<{high[0]}.{high[1]}"


@pytest.mark.parametrize(
    ("python", "mlx", "level", "fix"),
    [
        ("3.12.4", installed.MLX, "ok", ""),
        ("3.12.4", f"{installed.MLX} mlx-cuda-13", "ok", ""),
        ("3.10.1", installed.MLX, "fail", installed.NEWER_PYTHON),
        ("3.14.0", installed.MLX, "fail", installed.NEWER_PYTHON),
        ("3.11.2", "none", "fail", f"python -m pip install 'mlx=={installed.MLX}'"),
        ("3.11.2", "0.31.0", "warn", f"python -m pip install 'mlx=={installed.MLX}'"),
    ],
)
def test_versions(python, mlx, level, fix):
    finding = installed.installed(Versions(stageline="0.1.0", python=python, mlx=mlx), "0.32.2")
    assert (finding.level, finding.fix) == (level, fix)
    assert f"stageline 0.1.0, protocol 3, python {python}, mlx {mlx}, mlx-lm 0.32.2" in finding.found


@pytest.mark.parametrize(
    ("live", "system", "processor", "cards", "level", "found", "fix"),
    [
        (
            Live(dialect="metal", why="MLX has an Apple GPU", device="Apple M3 Ultra"),
            *("Darwin", "arm64", 0, "ok"),
            "Apple M3 Ultra: MLX has an Apple GPU, fused kernels run as metal",
            "",
        ),
        (
            Live(dialect="cuda", why="MLX has an NVIDIA GPU", device="NVIDIA H200"),
            *("Linux", "x86_64", 1, "ok"),
            "NVIDIA H200: MLX has an NVIDIA GPU, fused kernels run as cuda",
            "",
        ),
        (
            Live(dialect="cuda", why="MLX has an NVIDIA GPU", device="NVIDIA H200", problem="no NVRTC"),
            *("Linux", "x86_64", 1, "fail"),
            "NVIDIA H200: MLX has an NVIDIA GPU, but no NVRTC",
            "`stageline bench kernels` shows all of it",
        ),
        (
            Live(dialect="reference", why="MLX has no GPU here", device=""),
            *("Linux", "aarch64", 0, "ok"),
            "aarch64: MLX has no GPU here, layers run as plain MLX operations on the processor",
            "",
        ),
        (
            Live(dialect="reference", why="MLX has no GPU here", device=""),
            *("Linux", "x86_64", 2, "warn"),
            "x86_64: MLX has no GPU here, layers run as plain MLX operations on the processor; 2 NVIDIA cards unused",
            WITH_CUDA,
        ),
        (
            Live(dialect="reference", why="MLX has no GPU here", device=""),
            *("Darwin", "x86_64", 0, "warn"),
            "x86_64: MLX has no GPU here, layers run as plain MLX operations on the processor",
            backend.ARM_PYTHON,
        ),
        (
            "ImportError: libmlx.so: cannot open shared object file: No such file or directory",
            *("Linux", "x86_64", 0, "fail"),
            "MLX does not start: ImportError: libmlx.so: cannot open shared object file: No such file or directory",
            WITH_CPU,
        ),
        (
            "ModuleNotFoundError: No module named 'mlx'",
            *("Darwin", "arm64", 0, "fail"),
            "MLX does not start: ModuleNotFoundError: No module named 'mlx'",
            "`python -c 'import mlx.core'` shows all of it",
        ),
    ],
    ids=["metal", "cuda", "kernel fails", "cpu", "unused cards", "rosetta", "no library", "no mlx"],
)
def test_backend(live, system, processor, cards, level, found, fix):
    finding = backend.backend(live, system=system, processor=processor, cards=cards)
    assert (finding.check, finding.level, finding.found, finding.fix) == ("backend", level, found, fix)


def test_memory_in_use_warns():
    total = 24684092 * 1024
    assert memory.memory(total, MEMINFO).found == "23.5 GiB, 23.1 GiB available"
    assert memory.memory(total, "").found == "23.5 GiB"
    finding = memory.memory(total, BUSY)
    assert (finding.level, finding.found) == ("warn", "23.5 GiB, 2.3 GiB available")
    assert "ps -eo rss" in finding.fix


def test_a_card_that_another_program_uses_warns():
    assert card_count(TWO_CARDS) == 2
    assert card_count("") == 0
    finding = gpu_memory(TWO_CARDS)
    assert finding.level == "warn"
    assert finding.found == ("card 0: NVIDIA H200, 139.8 of 140.4 GiB free; card 1: NVIDIA H200, 0.0 of 140.4 GiB free")
    assert gpu_memory(TWO_CARDS.splitlines()[0]).level == "ok"
    shared = gpu_memory(SHARED_MEMORY)
    assert (shared.level, shared.found) == ("ok", "card 0: NVIDIA GB10, in the machine's memory")


@pytest.mark.parametrize(("value", "level"), [(None, "ok"), ("", "ok"), ("0", "ok"), ("1", "warn")])
def test_fast_synchronisation_warns(value, level):
    finding = environment({} if value is None else {"MLX_METAL_FAST_SYNCH": value})
    assert (finding.level, finding.fix) == (level, "unset MLX_METAL_FAST_SYNCH" if level == "warn" else "")


@pytest.mark.parametrize(
    ("target", "idle_action", "gnome", "level", "found"),
    [
        ("masked", 's "suspend"', "'suspend'", "ok", "never (sleep.target is masked)"),
        ("loaded", 's "ignore"', "", "ok", "not by itself (logind)"),
        ("loaded", 's "ignore"', "'nothing'", "ok", "not by itself (logind, GNOME)"),
        ("loaded", 's "suspend"', "", "warn", "systemd-logind: suspend when idle"),
        ("loaded", "", "'suspend'", "warn", "GNOME suspends this machine when nobody uses it"),
        ("", "", "", "ok", "no power management was found"),
    ],
    ids=["masked", "server", "desktop that stays", "logind", "gnome", "container"],
)
def test_sleep(target, idle_action, gnome, level, found):
    finding = sleep_linux(target, idle_action, gnome)
    assert (finding.level, finding.found, finding.fix) == (level, found, NEVER_SYSTEMD if level == "warn" else "")


@pytest.mark.parametrize(
    ("soft", "hard", "level", "found"),
    [
        (1024, 524288, "ok", "1024 open files and sockets, can be raised to 524288"),
        (256, -1, "ok", "256 open files and sockets, can be raised to any number"),
        (256, 256, "warn", "256 open files and sockets, can be raised to 256"),
    ],
)
def test_descriptors(soft, hard, level, found):
    finding = descriptors(soft, hard)
    assert (finding.level, finding.found) == (level, found)
    assert ("ulimit -Hn 1024" in finding.fix) == (level == "warn")


def test_disks():
    wide = Room("sockets", Path("/tmp"), 50 << 30, True)
    assert disk([wide]).found == "sockets: 50.0 GiB free in /tmp"
    full = disk([wide, Room("snapshots", Path("/var/s"), 1 << 29, True)])
    assert (full.level, full.fix) == ("warn", "make room there: `df -h /var/s`")
    closed = disk([wide, Room("snapshots", Path("/var/s"), 1 << 40, False)])
    assert (closed.level, closed.fix) == ("fail", "sudo chown $(id -un) /var/s")
    short = disk([Room("models", Path("/m"), 50 << 30, True, 60 << 30)])
    assert (short.level, short.found) == ("fail", "models: 50.0 GiB free in /m; 60.0 GiB are to come")


def test_room_is_looked_for_where_a_directory_will_be(tmp_path):
    found = room("snapshots", tmp_path / "not" / "yet")
    assert (found.path, found.writable) == (tmp_path, True)
    assert found.free > 0


def test_connections_are_really_tried():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert tried([("127.0.0.1", port)]) == {"127.0.0.1": 0}
    assert tried([("127.0.0.1", port)]) == {"127.0.0.1": errno.ECONNREFUSED}


def test_what_is_live_here_is_tried_in_a_process_of_its_own():
    live = backend.try_backend()
    assert isinstance(live, Live)
    assert live.problem == ""
    finding = backend.backend(live, system=platform.system(), processor=platform.machine(), cards=0)
    assert finding.level == "ok"
    assert live.why in finding.found
