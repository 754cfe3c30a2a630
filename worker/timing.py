"""How long an operation takes on the device, in a chain where each waits for the one before, as in a model.

On a GPU a long read goes first, so that the host has handed over the chain before the device begins it: then the
device sets the pace. What the chain's links and the read take is measured the same way and taken off.

Shapes: S rows, D columns.
"""

import math
import statistics
import time
from collections.abc import Callable

import mlx.core as mx

from kernels import backend
from kernels.bandwidth import GROUP_BYTES, read_all

Operation = Callable[[int, mx.array], mx.array]
HEAD_BYTES = 1 << 30  # what the long read covers, as often as it takes
HEAD_SECONDS = 0.01
MAX_SECONDS = 3.0  # of one operation on a CPU


@mx.compile
def _link(x_SD: mx.array, after: mx.array) -> mx.array:
    """x itself, once `after` is there."""
    return x_SD + after.reshape(-1)[0].astype(x_SD.dtype) * 0


class Clock:
    """Times operations. It holds 1 GiB of device memory where there is a GPU."""

    def __init__(self, calls: int = 100, rounds: int = 5) -> None:
        self._on_gpu = mx.default_device() == mx.gpu
        self._calls, self._rounds = calls, rounds
        self._words, self._reads = mx.array(0), 0
        if self._on_gpu and backend.current().fused:
            self._words = mx.arange(HEAD_BYTES // GROUP_BYTES * GROUP_BYTES // 4, dtype=mx.uint32)
            mx.eval(self._words, read_all(self._words))
            began = time.perf_counter()
            mx.eval(read_all(self._words))
            self._reads = math.ceil(HEAD_SECONDS / (time.perf_counter() - began))

    def seconds(self, operation: Operation, x_SD: mx.array) -> float:
        """Seconds of one `operation(turn, x)`; it may use other weights each turn, so that no cache holds them."""
        if not self._on_gpu:
            return self._on_cpu(operation, x_SD)
        links: Operation = lambda turn, x_SD: x_SD  # noqa: E731
        for warm in (operation, links):
            self._chain(warm, x_SD, min(self._calls, 10))
        differences = [
            self._chain(operation, x_SD, self._calls) - self._chain(links, x_SD, self._calls)
            for _ in range(self._rounds)
        ]
        return statistics.median(differences) / self._calls

    def _chain(self, operation: Operation, x_SD: mx.array, calls: int) -> float:
        start = x_SD
        for _ in range(self._reads):
            start = _link(start, read_all(self._words))
        y_SD = start
        for turn in range(calls):
            y_SD = _link(start, operation(turn, y_SD))
        began = time.perf_counter()
        mx.eval(y_SD)
        return time.perf_counter() - began

    def _on_cpu(self, operation: Operation, x_SD: mx.array) -> float:
        """The middle one of a few single calls."""
        mx.eval(operation(0, x_SD))
        times: list[float] = []
        while len(times) < self._rounds and sum(times) < MAX_SECONDS:
            began = time.perf_counter()
            mx.eval(operation(len(times) + 1, x_SD))
            times.append(time.perf_counter() - began)
        return statistics.median(times)
