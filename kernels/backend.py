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
    """`dialect` "reference" means that layers run as plain MLX operations; `why` is one line for people.

    `matrix_units`: whether products go through them where that measured faster (kernels/matvec/README.md).
    """

    dialect: Dialect
    why: str
    matrix_units: bool = False

    @property
    def fused(self) -> bool:
        """Whether there is a kernel dialect to launch."""
        return self.dialect != "reference"


@cache
def _detected() -> Backend:
    if mx.metal.is_available():
        return Backend("metal", "MLX has an Apple GPU")
    if mx.cuda.is_available():
        return Backend("cuda", "MLX has an NVIDIA GPU", matrix_units=True)
    return Backend("reference", "MLX has no GPU here")


_override: list[Backend] = []


def current() -> Backend:
    """The backend that launches use now."""
    return _override[-1] if _override else _detected()


@contextmanager
def using(dialect: Dialect, matrix_units: bool | None = None) -> Iterator[None]:
    """Launches inside the block use `dialect`; for tests and benchmarks."""
    units = dialect == "cuda" if matrix_units is None else matrix_units
    _override.append(Backend(dialect, "asked for", units))
    try:
        yield
    finally:
        _override.pop()
