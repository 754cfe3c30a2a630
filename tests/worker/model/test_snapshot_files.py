"""Snapshots on disk: exact, whole or not there."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from worker.errors import ConfigError, ProtocolError
from worker.model.snapshot_files import SnapshotFiles
from worker.model.snapshots import Snapshot, Snapshots

A, B, C = (f"3-{letter * 32}" for letter in "abc")
NAME = A + "-answer"


def snapshot(seed: int = 0, layers: int = 2) -> Snapshot:
    def some(dtype: mx.Dtype, *shape: int) -> mx.array:
        nonlocal seed
        seed += 1
        return mx.random.normal(shape, key=mx.random.key(seed)).astype(dtype)

    return Snapshot(
        position=3,
        tails=[some(mx.bfloat16, 1, 3, 5) for _ in range(layers)],
        states=[some(mx.float32, 1, 2, 4, 8) for _ in range(layers)],
        keys=[some(mx.float16, 1, 2, 3, 7)],
        values=[some(mx.float16, 1, 2, 3, 7)],
    )


def written(directory: Path, *names: str) -> list[Snapshot]:
    snapshots = Snapshots(files := SnapshotFiles(directory))
    kept = [snapshot(seed) for seed in range(len(names))]
    for name, each in zip(names, kept, strict=True):
        snapshots.keep(name, each)
        snapshots.write(name)
    files.close()
    return kept


def files_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.name != ".lock")


def assert_same(one: Snapshot, other: Snapshot) -> None:
    assert one.position == other.position
    for mine, their in zip(one.arrays, other.arrays, strict=True):
        assert (mine.dtype, mine.shape) == (their.dtype, their.shape)
        assert mx.array_equal(mine, their)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_later_life_reads_the_same_bits(tmp_path: Path, layers: int) -> None:
    snapshots = Snapshots(files := SnapshotFiles(tmp_path))
    snapshots.keep(NAME, kept := snapshot(layers=layers))
    snapshots.write(NAME)
    files.close()
    later = Snapshots(SnapshotFiles(tmp_path))
    assert later.held == snapshots.held
    assert later.nbytes == kept.nbytes
    assert_same(later.take(NAME, 3), kept)
    assert mx.load(str(tmp_path / f"{NAME}.safetensors"))["keys.0"].shape == (1, 2, 3, 7)


def test_the_oldest_come_first_and_dropped_ones_are_gone(tmp_path: Path) -> None:
    names = [C, A, B]
    written(tmp_path, *names)
    later = Snapshots(files := SnapshotFiles(tmp_path))
    assert [held.snapshot for held in later.held] == names
    later.drop(A)
    assert [held.snapshot for held in later.held] == [C, B]
    files.close()
    assert files_in(tmp_path) == [f"{B}.safetensors", f"{C}.safetensors"]


def damage(path: Path, how: str) -> None:
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    match how:
        case "a bit":
            path.write_bytes(data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
        case "cut":
            path.write_bytes(data[: len(data) // 2])
        case "empty":
            path.write_bytes(b"")
        case "position":
            path.write_bytes(data.replace(b'"position": "3"', b'"position": "4"'))
        case "no digest":
            header = json.loads(data[8:start])
            del header["__metadata__"]["blake2b"]
            text = json.dumps(header).encode()
            path.write_bytes(len(text).to_bytes(8, "little") + text + data[start:])
        case "not ours":
            path.write_bytes(b"\x02\0\0\0\0\0\0\0[]")
    assert path.read_bytes() != data


@pytest.mark.parametrize("how", ["a bit", "cut", "empty", "position", "no digest", "not ours", "renamed"])
def test_a_damaged_file_is_logged_and_deleted(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path, A, B)
    if how == "renamed":
        (tmp_path / f"{A}.safetensors").rename(tmp_path / f"4{A[1:]}.safetensors")
    else:
        damage(tmp_path / f"{A}.safetensors", how)
    later = Snapshots(SnapshotFiles(tmp_path))
    assert [held.snapshot for held in later.held] == [B]
    assert f"{A[1:]}.safetensors is damaged: " in caplog.text
    assert "; it is deleted" in caplog.text
    assert files_in(tmp_path) == [f"{B}.safetensors"]


@pytest.mark.parametrize("how", ["overwritten", "deleted", "moved away"])
def test_what_happens_to_files_later_breaks_no_restore(tmp_path: Path, how: str) -> None:
    (kept,) = written(here := tmp_path / "here", NAME)
    later = Snapshots(files := SnapshotFiles(here))
    match how:
        case "overwritten":
            with (here / f"{NAME}.safetensors").open("r+b") as file:
                file.seek(-40, 2)
                file.write(b"oops")
        case "deleted":
            (here / f"{NAME}.safetensors").unlink()
        case _:
            here.rename(tmp_path / "there")
    assert_same(later.take(NAME, 3), kept)
    later.drop(NAME)
    files.close()


def test_a_restore_that_fails_is_not_offered_again(tmp_path: Path) -> None:
    written(tmp_path, NAME)
    later = Snapshots(files := SnapshotFiles(tmp_path))
    with pytest.raises(ProtocolError, match="is at position 3, the request begins at 2"):
        later.take(NAME, 2)
    assert later.held == ()
    files.close()
    assert files_in(tmp_path) == []


def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    files = SnapshotFiles(tmp_path)
    with pytest.raises(ConfigError, match=f"{tmp_path} is in use by another cluster; name another directory"):
        SnapshotFiles(tmp_path)
    files.close()
    SnapshotFiles(tmp_path).close()


def test_what_is_no_file_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path, NAME)
    (tmp_path / f"{A}.safetensors").mkdir()
    (tmp_path / f"{A}.1.part").mkdir()
    (tmp_path / f"{B}.safetensors").symlink_to(tmp_path / "nowhere")
    (tmp_path / f"{B}.1.part").symlink_to(tmp_path / "nowhere")
    before = files_in(tmp_path)
    assert [held.snapshot for held in Snapshots(SnapshotFiles(tmp_path)).held] == [NAME]
    assert files_in(tmp_path) == before


def test_a_file_that_cannot_be_deleted_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, A, B)
    damage(tmp_path / f"{A}.safetensors", "a bit")

    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "unlink", refuse)
    assert [held.snapshot for held in Snapshots(SnapshotFiles(tmp_path)).held] == [B]
    assert "its checksum is wrong; it is not used, but cannot be deleted: Operation not permitted" in caplog.text
    assert "it is deleted" not in caplog.text


def test_what_an_interrupted_write_left_is_removed(tmp_path: Path) -> None:
    written(tmp_path, NAME)
    (tmp_path / f"{B}.1.part").write_bytes(b"half")
    (tmp_path / "model.safetensors").write_bytes(b"somebody else's")
    assert [held.snapshot for held in Snapshots(SnapshotFiles(tmp_path)).held] == [NAME]
    assert files_in(tmp_path) == [f"{NAME}.safetensors", "model.safetensors"]


def test_a_disk_that_refuses_costs_only_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    snapshots = Snapshots(files := SnapshotFiles(tmp_path / "here"))
    (tmp_path / "here" / ".lock").unlink()
    (tmp_path / "here").rmdir()
    snapshots.keep(NAME, kept := snapshot())
    snapshots.write(NAME)
    files.close()
    assert "is not kept on disk: No such file or directory" in caplog.text
    assert_same(snapshots.take(NAME, 3), kept)
