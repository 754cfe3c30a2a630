"""How fast one core of this machine reads memory; no MLX. MLX's quantised products on a CPU use one core too."""

import time

READ_BYTES = 128 << 20  # more than any cache holds
READS = 3


def core_bandwidth() -> float:
    """Bytes a second: the best of a few searches for a byte that is not there."""
    data = b"\x02" * READ_BYTES
    seconds: list[float] = []
    for _ in range(READS):
        began = time.perf_counter()
        data.find(1)
        seconds.append(time.perf_counter() - began)
    return READ_BYTES / min(seconds)
