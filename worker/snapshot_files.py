"""Snapshots on disk: one safetensors file each, whole or not there, checked before it is believed.

A file is written beside its place by a thread of its own, synced and renamed. Its tensors are called `PART.INDEX`; its
metadata hold `position` and `blake2b`, the digest of the whole file with that digest's own characters as zeros.
"""

import atexit
import contextlib
import hashlib
import json
import logging
import os
import queue
import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx

from worker.errors import CheckpointError, ProtocolError
from worker.headers import read_header
from worker.protocol import SNAPSHOT_NAME

log = logging.getLogger("stageline.snapshots")

SUFFIX = ".safetensors"
DIGEST_BYTES = 16
LEAVE_SECONDS = 2.0
_NO_DIGEST = b"0" * (2 * DIGEST_BYTES)
MOST_WAITING = 16  # writes; each keeps its arrays in memory
PARTS = ("states", "tails", "keys", "values")  # float32 first, so that every tensor is aligned
_NAMES = {mx.bfloat16: "BF16", mx.float16: "F16", mx.float32: "F32"}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, CheckpointError)

Arrays = dict[str, list[mx.array]]


class SnapshotFiles:
    """The files in `directory`, made if it is not there; damaged ones are deleted on the way in, and logged."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jobs: queue.SimpleQueue[tuple[str, list[Any] | None] | None] = queue.SimpleQueue()
        directory.mkdir(parents=True, exist_ok=True)
        self.sizes: dict[str, int] = self._scan()  # bytes of tensors by name, the oldest first
        self._thread = threading.Thread(target=self._run, name="snapshots", daemon=True)
        self._thread.start()
        atexit.register(self.close)

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
        self.sizes[name] = end
        self._jobs.put((name, [len(header).to_bytes(8, "little"), header, *parts]))

    def read(self, name: str) -> tuple[int, Arrays]:
        """Position and arrays of a file; ProtocolError if it is damaged by now, and then it is deleted."""
        path = self._path(name)
        try:
            data, position = _checked(path)
            return position, _arrays(data)
        except _DAMAGE as error:
            self.remove(name)
            raise ProtocolError(f"snapshot file {path} cannot be used any more and is deleted: {error}") from error

    def remove(self, name: str) -> None:
        """Deletes a file, after what is queued for it."""
        if self.sizes.pop(name, None) is not None:
            self._jobs.put((name, None))

    def close(self) -> None:
        """Waits a little while for what is queued; what is not written then is not there next time."""
        self._jobs.put(None)
        self._thread.join(LEAVE_SECONDS)

    def _path(self, name: str) -> Path:
        return self._directory / (name + SUFFIX)

    def _scan(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for abandoned in self._directory.glob("*.part"):
            abandoned.unlink(missing_ok=True)
        ours = [path for path in self._directory.glob("*" + SUFFIX) if re.match(SNAPSHOT_NAME, path.stem)]
        for path in sorted(ours, key=lambda path: path.stat().st_mtime_ns):
            try:
                _checked(path)
                sizes[path.stem] = sum(tensor.nbytes for tensor in read_header(path).values())
            except _DAMAGE as error:
                log.warning("%s is damaged and is deleted: %s", path, error)
                path.unlink(missing_ok=True)
        return sizes

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            name, parts = job
            try:
                if parts is None:
                    self._path(name).unlink(missing_ok=True)
                else:
                    self._put(name, parts)
            except OSError as error:  # it stays in memory
                log.warning("snapshot %s is not kept on disk: %s", self._path(name), error.strerror)

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


def _checked(path: Path) -> tuple[memoryview, int]:
    """The whole file and its position; an error of several kinds unless its digest is right."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8:start])["__metadata__"]
    header = data[8:start].replace(metadata["blake2b"].encode(), _NO_DIGEST, 1)
    if _digest([data[:8], header, memoryview(data)[start:]]) != metadata["blake2b"].encode():
        raise ValueError("its checksum is wrong")
    return memoryview(data), int(metadata["position"])


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
    return arrays
