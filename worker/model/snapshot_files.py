"""Snapshots on disk: one safetensors file each, whole or not there, checked before it is believed.

A file is written beside its place by a thread of its own, synced and renamed. Its tensors are called `PART.INDEX`; its
metadata hold `position` and `blake2b`, the digest of the whole file with that digest's own characters as zeros. Files
are read once, when the stage loads: whatever happens to them later, no running request depends on them.
"""

import atexit
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import queue
import re
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import mlx.core as mx

from worker.errors import ConfigError
from worker.protocol import SNAPSHOT_NAME

log = logging.getLogger("stageline.snapshots")

SUFFIX = ".safetensors"
DIGEST_BYTES = 16
LEAVE_SECONDS = 2.0
LOCK = ".lock"
LOCK_SECONDS = 3.0  # a stage that was killed a moment ago may still be about to leave
_NO_DIGEST = b"0" * (2 * DIGEST_BYTES)
MOST_WAITING = 16  # writes; each keeps its arrays in memory
PARTS = ("states", "tails", "keys", "values")  # float32 first, so that every tensor is aligned
_NAMES = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError)

Arrays = dict[str, list[mx.array]]


class SnapshotFiles:
    """The files in `directory`, made if it is not there and locked for this process. ConfigError if another has it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jobs: queue.SimpleQueue[tuple[str, list[Any] | None] | None] = queue.SimpleQueue()
        self._names: set[str] = set()  # written, or about to be
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(directory)
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def load(self) -> dict[str, tuple[int, Arrays]]:
        """Positions and arrays by name, the oldest first. A damaged file is deleted, one that cannot be read is left
        alone; both are logged."""
        found: dict[str, tuple[int, Arrays]] = {}
        for path in self._left():
            try:
                found[path.stem] = _read(path)
                self._names.add(path.stem)
            except OSError as error:
                log.warning("%s is not used, it cannot be read: %s", path, error.strerror)
            except _DAMAGE as error:
                _delete(path, f"is damaged: {error}")
        return found

    def write(self, name: str, position: int, arrays: Mapping[str, Sequence[mx.array]]) -> None:
        """Queues a file of the PARTS in `arrays`. Waits until they are computed.

        A disk that is too slow for what is queued already gets no more: the snapshot is in memory only.
        """
        if self._jobs.qsize() >= MOST_WAITING:
            log.warning("snapshot %s is not kept on disk: %d writes wait", self._path(name), MOST_WAITING)
            return
        entries: dict[str, Any] = {"__metadata__": {"position": str(position), "blake2b": _NO_DIGEST.decode()}}
        parts: list[memoryview] = []
        end = 0
        for key, array in ((f"{part}.{i}", array) for part in PARTS for i, array in enumerate(arrays[part])):
            begin, end = end, end + array.nbytes
            entries[key] = {"dtype": _NAMES[array.dtype], "shape": array.shape, "data_offsets": [begin, end]}
            bits = array.view(mx.uint16 if array.itemsize == 2 else mx.uint32)
            parts.append(memoryview(bits).cast("B"))  # pyright: ignore (an array is a buffer)
        header = json.dumps(entries).encode()
        header += b" " * (-len(header) % 8)
        self._names.add(name)
        self._jobs.put((name, [len(header).to_bytes(8, "little"), header, *parts]))

    def remove(self, name: str) -> None:
        """Deletes a file, after what is queued for it."""
        if name in self._names:
            self._names.remove(name)
            self._jobs.put((name, None))

    def close(self) -> None:
        """Waits a little while for what is queued; what is not written then is not there next time.
        Others may have the directory then."""
        self._jobs.put(None)
        self._thread.join(LEAVE_SECONDS)
        self._lock.close()

    def _path(self, name: str) -> Path:
        return self._directory / (name + SUFFIX)

    def _left(self) -> list[Path]:
        """Files of an earlier life, the oldest first, without those that an interrupted write left."""
        ages: dict[Path, int] = {}
        for path in self._directory.iterdir():
            name, _, ending = path.name.partition(".")
            try:
                status = path.lstat()
            except OSError as error:
                log.warning("%s is not used: %s", path, error.strerror)
                continue
            if not re.match(SNAPSHOT_NAME, name) or not stat.S_ISREG(status.st_mode):
                continue  # not ours
            if "." + ending == SUFFIX:
                ages[path] = status.st_mtime_ns
            elif ending.endswith("part"):
                _delete(path, "was not written to its end")
        return sorted(ages, key=ages.__getitem__)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            name, parts = job
            path = self._path(name)
            try:
                if parts is None:
                    path.unlink(missing_ok=True)
                else:
                    self._put(name, parts)
            except OSError as error:  # it stays in memory
                failed = "cannot be deleted" if parts is None else "is not kept on disk"
                log.warning("snapshot %s %s: %s", path, failed, error.strerror)

    def _put(self, name: str, parts: list[Any]) -> None:
        path, making = self._path(name), self._directory / f"{name}.{os.getpid()}.part"
        digest = _digest(parts)
        parts[1] = parts[1].replace(_NO_DIGEST, digest, 1)
        try:
            with making.open("wb") as file:
                for part in parts:
                    file.write(part)
                file.flush()
                os.fsync(file.fileno())
            making.rename(path)
        finally:
            with contextlib.suppress(OSError):
                making.unlink(missing_ok=True)


def _digest(parts: Sequence[Any]) -> bytes:
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest().encode()


def _locked(directory: Path) -> IO[bytes]:
    """An open file whose lock no other process has; closing it, or the process's end, frees the lock."""
    file = (directory / LOCK).open("wb")
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                file.close()
                raise ConfigError(
                    f"snapshot_dir: {directory} is in use by another cluster; name another directory, or stop that one",
                    param="snapshot_dir",
                ) from error
            time.sleep(0.05)
        except OSError:
            file.close()
            raise


def _delete(path: Path, why: str) -> None:
    try:
        path.unlink()
    except OSError as error:
        log.warning("%s %s; it is not used, but cannot be deleted: %s", path, why, error.strerror)
    else:
        log.warning("%s %s; it is deleted", path, why)


def _read(path: Path) -> tuple[int, Arrays]:
    """Position and arrays of a file; an error of several kinds unless its digest and its name are right."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:start])["__metadata__"]
    header = data[8:start].replace(metadata["blake2b"].encode(), _NO_DIGEST, 1)
    if _digest([data[:8], header, memoryview(data)[start:]]) != metadata["blake2b"].encode():
        raise ValueError("its checksum is wrong")
    position = int(metadata["position"])
    if not path.name.startswith(f"{position}-"):
        raise ValueError(f"it was written for position {position}")
    return position, _arrays(memoryview(data))


def _arrays(data: memoryview) -> Arrays:
    arrays: Arrays = {part: [] for part in PARTS}
    start = 8 + int.from_bytes(data[:8], "little")
    for key, entry in json.loads(bytes(data[8:start])).items():
        if key == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        bits = data[start + begin : start + end].cast("I" if entry["dtype"] == "F32" else "H")
        array = mx.array(bits).view(_DTYPES[entry["dtype"]])  # pyright: ignore (a buffer is an array)
        arrays[key.partition(".")[0]].append(array.reshape(entry["shape"]))
    mx.eval(arrays)
    return arrays
