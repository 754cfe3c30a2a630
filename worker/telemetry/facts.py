"""What does not change while a stage is loaded, for its metrics."""

from collections.abc import Callable

import msgspec

from worker.footprint import Footprint


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """Layers [first, end) with their `pattern`, and where they run.

    `fused_layers` decode through fused kernels, in steps of at most `fused_rows` rows. `read_bytes(rows)` are the
    weight bytes that a decode step of so many rows has to read; `bandwidth` is what the memory gives, in bytes a
    second. A sequence needs `state`; of its memory, which is called `memory`, `usable_bytes` may be used.
    """

    first: int
    end: int
    pattern: str
    backend: str
    host: str
    fused_layers: int
    fused_rows: int
    parameter_bytes: int
    bandwidth: float
    state: Footprint
    memory: str
    usable_bytes: int
    read_bytes: Callable[[int], float]
