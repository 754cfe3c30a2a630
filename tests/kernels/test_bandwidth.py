"""The read that bandwidth is measured with reads everything."""

import mlx.core as mx
import numpy as np
import pytest

from kernels import backend
from kernels.bandwidth import GROUP_BYTES, SIMDS, read_all, read_bandwidth


def test_every_bit_is_read(dialect: str) -> None:
    groups = 3
    words = mx.random.randint(0, 2**31 - 1, (groups * GROUP_BYTES // 4,), key=mx.random.key(1)).astype(mx.uint32)
    ones = read_all(words)
    assert ones.shape == (groups * SIMDS,)
    assert ones.sum().item() == np.unpackbits(np.array(words).view(np.uint8)).sum()


def test_an_odd_end_is_refused() -> None:
    with backend.using("host"), pytest.raises(ValueError, match="not a multiple"):
        read_all(mx.zeros((GROUP_BYTES // 4 + 1,), mx.uint32))


def test_without_a_gpu_nothing_is_measured() -> None:
    with backend.using("reference"):
        assert read_bandwidth() is None
