"""What makes a model the same model, so that snapshots of an earlier run can be believed."""

import hashlib
from pathlib import Path

import msgspec

from worker.checkpoint.checkpoint import Checkpoint
from worker.checkpoint.hub import pinned
from worker.version import VERSION

DIGEST_BYTES = 16


def model_identity(source: str, checkpoint: Checkpoint, quantize: str | None) -> str:
    """A name that changes with anything that may change a bit of the state: weights, configuration, this software.

    Of a model of the hub the revision says which weights; of a directory the files' names, sizes and times do, since
    reading all of them would take minutes.
    """
    where = pinned(source, checkpoint)
    files = [] if not Path(where).is_absolute() else sorted(set(checkpoint.shards.files.values()))
    stats = [(file, (stat := (checkpoint.directory / file).stat()).st_size, stat.st_mtime_ns) for file in files]
    facts = (VERSION, "" if files else where, quantize, checkpoint.config, stats)
    return hashlib.blake2b(msgspec.json.encode(facts), digest_size=DIGEST_BYTES).hexdigest()
