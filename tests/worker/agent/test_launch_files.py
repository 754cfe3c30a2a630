import os
from pathlib import Path

import pytest

from worker.agent.launch_files import remove_launch_files


def test_what_mlx_launch_wrote_for_this_process_is_removed_and_nothing_else(tmp_path: Path) -> None:
    hostfile, ours, other, text = (tmp_path / f"tmp.{name}" for name in ("hosts", "ours", "other", "text"))
    hostfile.write_text("\n")
    ours.write_text(f"{os.getpid()}\n")
    other.write_text(f"{os.getpid() + 1}\n")
    text.write_text("a user's file")
    remove_launch_files({"MLX_HOSTFILE": str(hostfile), "MLX_RANK": "0"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tmp.other", "tmp.text"]


@pytest.mark.parametrize(
    ("name", "text", "rank"),
    [("tmp.hosts", "\n", {}), ("hosts.json", "\n", {"MLX_RANK": "0"}), ("tmp.hosts", '[["a:1"]]', {"MLX_RANK": "0"})],
    ids=["not launched", "a name of one's own", "with hosts in it"],
)
def test_a_users_hostfile_stays(tmp_path: Path, name: str, text: str, rank: dict[str, str]) -> None:
    hostfile = tmp_path / name
    hostfile.write_text(text)
    remove_launch_files({"MLX_HOSTFILE": str(hostfile), **rank})
    assert hostfile.read_text() == text


def test_without_mlx_launch_nothing_is_touched(tmp_path: Path) -> None:
    (tmp_path / "tmp.ours").write_text(f"{os.getpid()}\n")
    remove_launch_files({})
    assert (tmp_path / "tmp.ours").exists()
