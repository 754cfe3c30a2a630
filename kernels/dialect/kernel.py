"""A kernel text bound to a dialect, launched on MLX arrays."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import mlx.core as mx

from kernels import backend

SIMD = 32  # lanes of a simdgroup, on every platform we run on
MAX_THREADS = 1024
MAX_SHARED_BYTES = 32 * 1024  # of threadgroup memory: Apple's limit
MIN_INPUT_SIZE = 8  # MLX puts smaller inputs into Metal's `constant` space, which these texts do not name

# how a body learns where it runs
_WHERE = {
    "metal": """
  const u32 group_x = threadgroup_position_in_grid.x, group_y = threadgroup_position_in_grid.y;
  const u32 tid = thread_index_in_threadgroup, lane = thread_index_in_simdgroup, simd = simdgroup_index_in_threadgroup;
""",
    "cuda": """
  const u32 group_x = blockIdx.x, group_y = blockIdx.y;
  const u32 tid = threadIdx.x, lane = threadIdx.x % 32, simd = threadIdx.x / 32;
""",
    "host": """
  const u32 group_x = group_at.x, group_y = group_at.y;
  const u32 tid = current, lane = current % 32, simd = current / 32;
""",
}


@dataclass(frozen=True)
class Kernel:
    """A body of kernel code, its arguments in order, and the header files (package, name) that it stands on.

    The body sees `group_x`, `group_y`, `tid`, `lane`, `simd` (all u32), its arguments as pointers, and the words of the
    dialect headers. Constants are part of the text, so one Kernel is one compiled function.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    body: str
    headers: tuple[tuple[str, str], ...]
    threads: int

    def __post_init__(self) -> None:
        if self.threads % SIMD or not 0 < self.threads <= MAX_THREADS:
            raise ValueError(
                f"kernel {self.name}: {self.threads} threads; a threadgroup takes 32 to 1024, in steps of 32"
            )

    def header(self, dialect: Literal["metal", "cuda", "host"]) -> str:
        """Text before the function."""
        return "\n".join(_read(package, name) for package, name in (("dialect", f"{dialect}.h"), *self.headers))

    def source(self, dialect: Literal["metal", "cuda", "host"]) -> str:
        """Text of the function's body."""
        return _WHERE[dialect] + self.body

    def __call__(
        self,
        inputs: Sequence[mx.array],
        groups: tuple[int, int],
        shapes: Sequence[tuple[int, ...]],
        dtypes: Sequence[mx.Dtype],
    ) -> list[mx.array]:
        """Runs `groups` (x, y) threadgroups; returns new arrays of `shapes` and `dtypes`.

        Raises RuntimeError where the backend is the reference: callers ask `backend.current().fused` first.
        """
        dialect = backend.current().dialect
        if dialect == "reference":
            raise RuntimeError(f"kernel {self.name}: no dialect to run it in ({backend.current().why})")
        if dialect == "host":
            from kernels.dialect import host

            return host.run(self, inputs, groups, shapes, dtypes)
        if dialect == "metal":
            inputs = [
                mx.pad(a.reshape(-1), (0, MIN_INPUT_SIZE - a.size)) if a.size < MIN_INPUT_SIZE else a for a in inputs
            ]
        return _built(self, dialect)(
            inputs=list(inputs),
            grid=(groups[0] * self.threads, groups[1], 1),
            threadgroup=(self.threads, 1, 1),
            output_shapes=list(shapes),
            output_dtypes=list(dtypes),
        )


@cache
def _read(package: str, name: str) -> str:
    return resources.files("kernels").joinpath(package, name).read_text()


@cache
def _built(kernel: Kernel, dialect: Literal["metal", "cuda"]) -> Any:
    header = kernel.header(dialect)
    text = repr((kernel.inputs, kernel.outputs, kernel.threads, kernel.source(dialect), header))
    name = f"{kernel.name}_{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    arguments = {
        "input_names": list(kernel.inputs),
        "output_names": list(kernel.outputs),
        "source": kernel.source(dialect),
    }
    if dialect == "metal":
        return mx.fast.metal_kernel(name=name, header=header, **arguments)
    # MLX hashes the whole text at every launch: 10 us for 20 KB, more than a small kernel takes. the name holds our own
    # hash, so the headers may come in by path
    return mx.fast.cuda_kernel(name=name, header=_included(("dialect", "cuda.h"), *kernel.headers), **arguments)


def _included(*files: tuple[str, str]) -> str:
    return "".join(f'#include "{resources.files("kernels").joinpath(*file)}"\n' for file in files)
