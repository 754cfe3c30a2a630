"""The complete Metal and CUDA texts compile, at the shapes of Nemotron 3 Super and Nano.

No Mac here: clang checks the Metal text against a shim of Metal's library, with its address spaces as clang's.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import mlx.core as mx
import pytest

from kernels import backend
from kernels.dialect import host
from kernels.dialect.kernel import Kernel
from kernels.mamba.decode import MambaWeights, Mixer, mamba_decode
from kernels.matvec.launch import Gain, Output, combine, project
from kernels.moe.decode import MoEWeights, Routing, moe_decode
from tests.kernels.layers import EPS, Packed, Packing

SHIM = Path(__file__).with_name("metal_shim.h")
METAL_PLACES = {
    "threadgroup_position_in_grid": "uint3",
    "thread_index_in_threadgroup": "uint",
    "thread_index_in_simdgroup": "uint",
    "simdgroup_index_in_threadgroup": "uint",
}
CUDA_PREAMBLE = "#include <cuda_bf16.h>\n#include <cstdint>\n"

Launch = tuple[Kernel, tuple[mx.array, ...], tuple[mx.Dtype, ...]]


def blank(*shape: int, bits: int = 8, group: int = 32) -> Packed:
    """A matrix that is never computed: only its shape and types matter."""
    if bits == 16:
        return Packed(mx.zeros(shape, mx.bfloat16))
    *lead, depth = shape
    scales = mx.zeros((*lead, depth // group), mx.bfloat16)
    return Packed(mx.zeros((*lead, depth * bits // 32), mx.uint32), scales, scales, Packing(bits, group))


def moe_layer(
    hidden: int, experts: int, inner: int, shared: int, latent: int | None, bits: int, group: int
) -> MoEWeights:
    how, width = {"bits": bits, "group": group}, latent or hidden
    return MoEWeights(
        Gain(mx.zeros((hidden,), mx.bfloat16), EPS),
        blank(experts, hidden, bits=16),
        mx.zeros((experts,)),
        blank(experts, inner, width, **how),
        blank(experts, width, inner, **how),
        blank(shared, hidden, **how),
        blank(hidden, shared, **how),
        blank(latent, hidden, **how) if latent else None,
        blank(hidden, latent, **how) if latent else None,
    )


def run_moe(tokens: int, layer: MoEWeights, routing: Routing) -> None:
    moe_decode(mx.zeros((tokens, layer.router.weight.shape[1]), mx.bfloat16), layer, routing)


def run_mamba(tokens: int, hidden: int, m: Mixer, bits: int, group: int, every: bool) -> None:
    ones = mx.zeros((m.heads,))
    layer = MambaWeights(
        Gain(mx.zeros((hidden,), mx.bfloat16), EPS),
        blank(m.rows, hidden, bits=bits, group=group),
        mx.zeros((m.conv, m.taps), mx.bfloat16),
        mx.zeros((m.conv,), mx.bfloat16),
        ones,
        ones,
        ones,
        Gain(mx.zeros((m.inner,), mx.bfloat16), EPS),
        blank(hidden, m.inner, bits=bits, group=group),
    )
    tail, state = mx.zeros((1, m.taps - 1, m.conv), mx.bfloat16), mx.zeros((1, m.heads, m.channels, m.state))
    mamba_decode(mx.zeros((tokens, hidden), mx.bfloat16), tail, state, layer, m, every)


def run_attention(bits: int, group: int) -> None:
    x, how = mx.zeros((1, 4096), mx.bfloat16), {"bits": bits, "group": group}
    project(x, [Output(blank(n, 4096, **how)) for n in (4096, 256, 256)], Gain(mx.zeros((4096,), mx.bfloat16), EPS))
    combine([(x, blank(4096, 4096, **how))], [x])


RUNS: dict[str, Callable[[], None]] = {
    "super-moe-8bit": lambda: run_moe(1, moe_layer(4096, 512, 2688, 5376, 1024, 8, 32), Routing(512, 22, True, 5.0)),
    "super-moe-4bit-3-tokens": lambda: run_moe(
        3, moe_layer(4096, 512, 2688, 5376, 1024, 4, 64), Routing(512, 22, True, 5.0)
    ),
    "nano-moe-6bit": lambda: run_moe(1, moe_layer(2688, 128, 1856, 3712, None, 6, 64), Routing(128, 6, True, 2.5)),
    "super-mamba-8bit": lambda: run_mamba(1, 4096, Mixer(128, 64, 128, 8, 4), 8, 32, False),
    "nano-mamba-5bit-4-positions": lambda: run_mamba(4, 2688, Mixer(64, 64, 128, 8, 4), 5, 64, True),
    "super-attention-4bit": lambda: run_attention(4, 64),
}

ON_MATRIX_UNITS = {
    "super-moe-4bit-16-tokens": lambda: run_moe(
        16, moe_layer(4096, 512, 2688, 5376, 1024, 4, 64), Routing(512, 22, True, 5.0)
    ),
}


@cache
def launches(run: str, matrix_units: bool = False) -> tuple[Launch, ...]:
    """The kernels that a run launches, without computing anything."""
    seen: list[Launch] = []

    def record(kernel, inputs, groups, shapes, dtypes):
        seen.append((kernel, tuple(inputs), tuple(dtypes)))
        return [mx.zeros(shape, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]

    with pytest.MonkeyPatch.context() as patch, backend.using("host", matrix_units):
        patch.setattr(host, "run", record)
        (RUNS | ON_MATRIX_UNITS)[run]()
    return tuple(seen)


def metal_text(kernel: Kernel, inputs: tuple[mx.array, ...], dtypes: tuple[mx.Dtype, ...]) -> str:
    """The function as MLX writes it: small inputs in `constant`, attributes for the names that the body uses."""
    names = {mx.bfloat16: "bfloat16_t", mx.float32: "float", mx.uint32: "uint32_t"}
    body = kernel.source("metal")
    arguments = [
        f"const {'constant' if a.size < 8 else 'device'} {names[a.dtype]}* {n} [[buffer({i})]]"
        for i, (n, a) in enumerate(zip(kernel.inputs, inputs, strict=True))
    ]
    first = len(arguments)
    arguments += [
        f"device {names[t]}* {n} [[buffer({first + i})]]"
        for i, (n, t) in enumerate(zip(kernel.outputs, dtypes, strict=True))
    ]
    arguments += [f"{kind} {name} [[{name}]]" for name, kind in METAL_PLACES.items() if name in body]
    return f"{kernel.header('metal')}\n[[kernel]] void f({', '.join(arguments)}) {{\n{body}\n}}\n"


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++ to check the Metal text with")
@pytest.mark.parametrize("run", RUNS)
def test_metal_text_type_checks(run: str, tmp_path: Path) -> None:
    for index, (kernel, inputs, dtypes) in enumerate(launches(run)):
        path = tmp_path / f"{index}.cpp"
        path.write_text(f'#include "{SHIM}"\n' + metal_text(kernel, inputs, dtypes))
        flags = ["-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unused", "-Wno-unknown-attributes"]
        flags += ["-Wno-sign-compare", "-Wno-undefined-internal", "-Wno-undefined-inline"]
        done = subprocess.run(["clang++", *flags, str(path)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[:3000]


@pytest.mark.skipif(shutil.which("clang++") is None, reason="no clang++ to check the Metal text with")
def test_the_check_sees_a_wrong_address_space(tmp_path: Path) -> None:
    good, bad = "(GLOBAL const u32x4*)a0_x0", "(SHARED const u32x4*)a0_x0"
    text = metal_text(*launches("super-moe-8bit")[0])
    assert good in text
    path = tmp_path / "wrong.cpp"
    path.write_text(f'#include "{SHIM}"\n{text.replace(good, bad)}')
    done = subprocess.run(["clang++", "-std=c++17", "-fsyntax-only", "-w", str(path)], capture_output=True, check=False)
    assert b"address space" in done.stderr


def cuda_text(kernel: Kernel, inputs: tuple[mx.array, ...], dtypes: tuple[mx.Dtype, ...]) -> str:
    names = {mx.bfloat16: "__nv_bfloat16", mx.float32: "float", mx.uint32: "uint32_t"}
    arguments = [f"const {names[a.dtype]}* {n}" for n, a in zip(kernel.inputs, inputs, strict=True)]
    arguments += [f"{names[t]}* {n}" for n, t in zip(kernel.outputs, dtypes, strict=True)]
    head, body = kernel.header("cuda"), kernel.source("cuda")
    return f"{CUDA_PREAMBLE}{head}\n__global__ void f({', '.join(arguments)}) {{\n{body}\n}}\n"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to compile the CUDA text with")
@pytest.mark.parametrize("run", ["super-moe-8bit", "super-mamba-8bit", "nano-moe-6bit", "super-moe-4bit-16-tokens"])
def test_cuda_text_compiles(run: str, tmp_path: Path) -> None:
    """Without a stack frame or spills, and in few enough registers for its threads."""

    def compiled(launch: Launch) -> subprocess.CompletedProcess[str]:
        path = tmp_path / f"{id(launch)}.cu"
        path.write_text(cuda_text(*launch))
        command = ["nvcc", "-arch=sm_90", "-std=c++17", "-Xptxas", "-v", "-cubin", "-o", f"{path}.cubin", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = launches(run, matrix_units=True)
    with ThreadPoolExecutor(os.cpu_count()) as compilers:
        endings = list(compilers.map(compiled, found))
    for (kernel, _, _), done in zip(found, endings, strict=True):
        assert done.returncode == 0, done.stderr[:3000]
        assert "0 bytes stack frame, 0 bytes spill stores" in done.stderr
        registers = re.search(r"Used (\d+) registers", done.stderr)
        assert registers is not None
        assert int(registers[1]) * kernel.threads <= 65536


POINTER = re.compile(r"(\w+\s+(?:const\s+)?|\()(?:u16|u32|u64|float|u32x4|f32x4|Words<[^;{}]*?>|Step<\w+, \w+>)\s*[*&]")


def unnamed(code: str) -> list[str]:
    """Pointers and references without an address space: Metal refuses them, clang with attributes does not."""
    spaces = ("GLOBAL", "SHARED", "LOCAL")
    found = POINTER.findall(re.sub(r"//.*", "", code))
    return [before for before in found if not before.startswith(spaces)]


@pytest.mark.parametrize("file", sorted(Path(host.__file__).parents[1].glob("m*/*.h")), ids=lambda path: path.name)
def test_pointers_of_headers_name_their_address_space(file: Path) -> None:
    assert unnamed(file.read_text()) == []


@pytest.mark.parametrize("run", RUNS)
def test_pointers_of_bodies_name_their_address_space(run: str) -> None:
    assert [unnamed(kernel.body) for kernel, _, _ in launches(run)] == [[]] * len(launches(run))


@pytest.mark.parametrize(
    "code", ["f((float*)pool)", "FN void f(u32* rows)", "FN void f(const float* x)", "FN void f(float& x)"]
)
def test_a_pointer_without_address_space_is_seen(code: str) -> None:
    assert unnamed(code)


def test_launches_a_layer() -> None:
    """5 for a mixture, 3 for a Mamba layer, 2 around attention: 340 for Super's 40, 40 and 8 layers and the head."""
    counts = [len(launches(run)) for run in ("super-moe-8bit", "super-mamba-8bit", "super-attention-4bit")]
    assert counts == [5, 3, 2]
