"""Runs a kernel text on the CPU, for tests: compiled by the system's C++ compiler, one fiber a thread."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np

from kernels.dialect.kernel import Kernel

_C_TYPES = {
    mx.bfloat16: "u16",
    mx.float32: "float",
    mx.uint32: "u32",
    mx.int32: "int32_t",
}


class HostError(RuntimeError):
    """The kernel does not compile, or its threads wait for each other for ever."""


@cache
def compiler() -> str | None:
    """The C++ compiler's path, or None where the machine has none."""
    return next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)


def text(kernel: Kernel, dtypes_in: Sequence[mx.Dtype], dtypes_out: Sequence[mx.Dtype]) -> str:
    """The complete C++ source."""
    arguments = [f"const {_C_TYPES[t]}* {n}" for n, t in zip(kernel.inputs, dtypes_in, strict=True)]
    arguments += [f"{_C_TYPES[t]}* {n}" for n, t in zip(kernel.outputs, dtypes_out, strict=True)]
    fields = "".join(f"  {argument};\n" for argument in arguments)
    names = "".join(f"  const auto {n} = given->{n};\n" for n in (*kernel.inputs, *kernel.outputs))
    return f"""{kernel.header("host")}
struct Given {{
{fields}}};
static const Given* given;
static void body() {{
{names}{kernel.source("host")}
}}
extern "C" int run(const Given* arguments, u32 gx, u32 gy) {{
  given = arguments;
  return run_grid(body, gx, gy, 1, {kernel.threads});
}}
"""


@cache
def _library(source: str) -> ctypes.CDLL:
    path = compiler()
    if path is None:
        raise HostError("no C++ compiler (c++, g++ or clang++) on this machine; install one to run the kernel tests")
    folder = Path(tempfile.gettempdir()) / f"stageline-host-kernels-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-w"]
    name = hashlib.sha256("\0".join([path, *flags, source]).encode()).hexdigest()[:24]
    library = folder / f"{name}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            code, out = Path(work) / "kernel.cpp", Path(work) / "kernel.so"
            code.write_text(source)
            done = subprocess.run(
                [path, *flags, "-o", str(out), str(code)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise HostError(f"the kernel does not compile:\n{done.stderr[:4000]}")
            out.replace(library)
    return ctypes.CDLL(str(library))


def _to_numpy(array: mx.array) -> np.ndarray:
    return np.ascontiguousarray(np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array))


def run(
    kernel: Kernel,
    inputs: Sequence[mx.array],
    groups: tuple[int, int],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[mx.Dtype],
) -> list[mx.array]:
    """Runs every threadgroup in turn; an element that the kernel does not write stays NaN (or -1)."""
    library = _library(text(kernel, [a.dtype for a in inputs], dtypes))
    sources = [_to_numpy(array) for array in inputs]
    targets = [
        np.full(shape, -1, np.int32).view(np.uint32) if dtype.size == 4 else np.full(shape, 0xFFFF, np.uint16)
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    pointers = (ctypes.c_void_p * (len(sources) + len(targets)))(*(a.ctypes.data for a in (*sources, *targets)))
    if library.run(ctypes.byref(pointers), *map(ctypes.c_uint32, groups)) != 0:
        raise HostError(
            f"kernel {kernel.name}: some threads wait at a barrier or simd operation that others never reach"
        )
    return [mx.array(target).view(dtype) for target, dtype in zip(targets, dtypes, strict=True)]
