"""How fast this machine's GPU reads memory: what every fraction in the benchmarks refers to."""

import statistics
import time

import mlx.core as mx

from kernels import backend
from kernels.dialect.kernel import SIMD, Kernel

SIMDS = 16
LOADS = 8  # of 16 bytes, in flight in each thread
GROUP_BYTES = SIMDS * SIMD * LOADS * 16
NBYTES = 2 << 30  # far more than any cache holds
READS = 8

_BODY = f"""
  GLOBAL const u32* mine = words + ((u64)group_x * {SIMDS * SIMD * LOADS} + tid) * 4;
  u32x4 read[{LOADS}];
  UNROLL for (int i = 0; i < {LOADS}; i++) read[i] = stream16(mine + i * {SIMDS * SIMD * 4});
  u32 bits = 0;
  UNROLL for (int i = 0; i < {LOADS}; i++)
    bits += count_bits(read[i].x) + count_bits(read[i].y) + count_bits(read[i].z) + count_bits(read[i].w);
  const float total = simd_total(float(bits));
  if (lane == 0) ones[group_x * {SIMDS}u + simd] = total;
"""
_READ = Kernel("read", ("words",), ("ones",), _BODY, (), SIMDS * SIMD)


def read_all(words: mx.array) -> mx.array:
    """Reads uint32 words [N] once, N * 4 a multiple of `GROUP_BYTES`; the number of ones that each simdgroup saw."""
    groups, rest = divmod(words.nbytes, GROUP_BYTES)
    if rest:
        raise ValueError(f"{words.nbytes} bytes are not a multiple of {GROUP_BYTES}")
    return _READ([words], (groups, 1), [(groups * SIMDS,)], [mx.float32])[0]


def read_bandwidth(nbytes: int = NBYTES, rounds: int = 5) -> float | None:
    """Bytes a second of plain reads, median of `rounds`; None where there is no GPU.

    The difference between many reads and one, so that what it costs to start and to wait does not count.
    """
    if not backend.current().fused:
        return None
    words = mx.arange(nbytes // 4, dtype=mx.uint32)
    mx.eval(words, read_all(words))
    seconds = statistics.median(_seconds(words, READS + 1) - _seconds(words, 1) for _ in range(rounds))
    return nbytes * READS / seconds


def _seconds(words: mx.array, times: int) -> float:
    began = time.perf_counter()
    mx.eval([read_all(words) for _ in range(times)])
    return time.perf_counter() - began
