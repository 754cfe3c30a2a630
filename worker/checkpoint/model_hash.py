"""Whether two hosts have the same model, without reading all of it; no MLX.

A model of the hub is its commit. A directory is its configuration, its tensors, and blocks of its weight files at fixed
places: files of other weights differ almost everywhere, and damaged ones in size.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import describe, pinned
from worker.errors import CheckpointError

DIGEST_BYTES = 16
BLOCK_BYTES = 16 << 10
BLOCKS = 128  # of a file: of Super in 8 bits some 3000 in all, one for every 40 MB


def model_hash(model: str) -> str:
    """The hash of a directory or a hub id: equal exactly if configuration, tensors, file sizes and samples are.

    Raises CheckpointError, naming the file, if the model is not here or cannot be served.
    """
    checkpoint = describe(model)
    source = pinned(model, checkpoint)
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if Path(source).is_absolute():
        for part in _parts(checkpoint):
            digest.update(hashlib.blake2b(part).digest())  # of one length: no two lists of parts run together
    else:
        digest.update(source.encode())
    return digest.hexdigest()


def _parts(checkpoint: Checkpoint) -> Iterator[bytes]:
    """What is hashed, piece by piece."""
    yield msgspec.json.encode(checkpoint.config, order="deterministic")
    shards = checkpoint.shards
    for file in sorted(set(shards.files.values())):
        tensors = [(name, info.dtype, info.shape) for name, info in sorted(shards.header(file).items())]
        yield msgspec.json.encode((file, tensors))
        yield from _samples(checkpoint.directory / file)


def _samples(path: Path) -> Iterator[bytes]:
    """The file's size, then blocks from its beginning to its end; all of it if it is small."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            yield size.to_bytes(8, "little")
            for place in range(BLOCKS):
                file.seek(place * max(size - BLOCK_BYTES, 0) // (BLOCKS - 1))
                yield file.read(BLOCK_BYTES)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
