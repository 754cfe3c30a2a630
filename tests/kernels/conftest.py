"""The dialects that a kernel test runs in."""

from collections.abc import Iterator

import mlx.core as mx
import pytest

from kernels import backend
from kernels.dialect import host


@pytest.fixture(
    params=[
        "host",
        "host-matrix-units",
        pytest.param("cuda", marks=pytest.mark.cuda),
        pytest.param("metal", marks=pytest.mark.metal),
    ]
)
def dialect(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test's launches in one dialect; the host dialect wherever there is a C++ compiler, with both ways."""
    name, _, units = request.param.partition("-")
    if name == "host" and host.compiler() is None:
        pytest.skip("no C++ compiler on this machine")
    if name == "cuda" and not mx.cuda.is_available():
        pytest.skip("MLX has no NVIDIA GPU here")
    if name == "metal" and not mx.metal.is_available():
        pytest.skip("MLX has no Apple GPU here")
    with backend.using(name, matrix_units=bool(units) or None):
        yield name
