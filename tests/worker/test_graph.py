"""Counting a graph's operations."""

import mlx.core as mx

from worker.graph import operations


def test_operations_without_views() -> None:
    x = mx.random.normal((4, 6))
    mx.eval(x)
    shared = mx.exp(x)
    y = (shared.T[1:] * shared[0, 0]).reshape(-1).sum()
    assert operations(y, shared) == {"Exp": 1, "Multiply": 1, "Sum": 1}
    assert operations(x).total() == 0
