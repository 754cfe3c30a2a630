"""How fast this machine's memory is read, measured in a fraction of a second: what a decode step's reads compare to."""

import time

import mlx.core as mx

from kernels.bandwidth import read_bandwidth

GPU_BYTES = 256 << 20  # more than any cache holds, and little beside a model
CPU_BYTES = 128 << 20
READS = 5


def memory_bandwidth() -> float:
    """Bytes a second where MLX computes; 0 if that cannot be measured (a GPU without fused kernels)."""
    if mx.default_device() == mx.cpu:
        return _by_one_thread()
    bandwidth = read_bandwidth(GPU_BYTES, rounds=3) or 0.0
    mx.clear_cache()
    return bandwidth


def _by_one_thread() -> float:
    """The best of a few searches for a byte that is not there. MLX's quantised products on a CPU use one thread too."""
    data = b"\x02" * CPU_BYTES
    seconds: list[float] = []
    for _ in range(READS):
        began = time.perf_counter()
        data.find(1)
        seconds.append(time.perf_counter() - began)
    return CPU_BYTES / min(seconds)
