"""How fast this machine's memory is read, measured in a fraction of a second: what a decode step's reads compare to.

`python -m worker.bandwidth` prints it: bytes a second, of the GPU that MLX uses or of one core.
"""

import mlx.core as mx

from kernels.bandwidth import read_bandwidth
from worker.core_bandwidth import core_bandwidth

GPU_BYTES = 256 << 20  # more than any cache holds, and little beside a model


def memory_bandwidth() -> float:
    """Bytes a second where MLX computes; 0 if that cannot be measured (a GPU without fused kernels)."""
    if mx.default_device() == mx.cpu:
        return core_bandwidth()
    bandwidth = read_bandwidth(GPU_BYTES, rounds=3) or 0.0
    mx.clear_cache()
    return bandwidth


if __name__ == "__main__":
    print(memory_bandwidth())
