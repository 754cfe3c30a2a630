"""Which dialect runs the fused kernels in this process, and why."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal

import mlx.core as mx

Dialect = Literal["metal", "cuda", "host", "reference"]


@dataclass(frozen=True, slots=True)
class Backend:
    """`dialect` "reference" means that layers run as plain MLX operations; `why` is one line for people."""

    dialect: Dialect
    why: str

    @property
    def fused(self) -> bool:
        """Whether there is a kernel dialect to launch."""
        return self.dialect != "reference"


@cache
def _detected() -> Backend:
    if mx.metal.is_available():
        return Backend("metal", "MLX has an Apple GPU")
    if mx.cuda.is_available():
        return Backend("cuda", "MLX has an NVIDIA GPU")
    return Backend("reference", "MLX has no GPU here")


_override: list[Backend] = []


def current() -> Backend:
    """The backend that launches use now."""
    return _override[-1] if _override else _detected()


@contextmanager
def using(dialect: Dialect) -> Iterator[None]:
    """Launches inside the block use `dialect`; for tests and benchmarks."""
    _override.append(Backend(dialect, "asked for"))
    try:
        yield
    finally:
        _override.pop()
