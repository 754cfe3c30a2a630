"""Writes the kernel text of a product on the matrix units: tiles of 16 rows times 5 to 16 vectors.

Shapes: S vectors, D length of a row, N rows.
"""

from dataclasses import dataclass
from functools import cache

from kernels.dialect.jobs import Job
from kernels.dialect.kernel import SIMD
from kernels.matvec.product import Product, Term

FEWEST = 5  # vectors; fewer are faster one by one (README.md)
MOST = 16
SIMDS = 8  # of every threadgroup
THREADS = SIMDS * SIMD
TILE = 16  # rows
HEADERS = (("matvec", "product.h"), ("matvec", "tiles.h"))
_ENOUGH = 132 * 16  # simdgroups that fill an H200


@dataclass(frozen=True, slots=True)
class TileCut:
    """`parts` simdgroups share a tile's steps; each takes runs of up to `run` steps."""

    parts: int
    run: int = 4


def step_of(bits: int) -> int:
    """Weights of a row in one step."""
    return 32 if bits == 16 else 256 // bits


def takes(bits: int, group: int, depth: int) -> bool:
    """Whether the matrix units take rows of `depth` weights in this packing."""
    return bits in (4, 8, 16) and depth % step_of(bits) == 0 and (bits == 16 or group % step_of(bits) == 0)


def cut_of(rows: int) -> TileCut:
    """The cut that measured best, see README.md. It does not depend on the number of vectors, nor do the sums."""
    parts = 1
    while parts < SIMDS and -(-rows // TILE) * parts < _ENOUGH:
        parts *= 2
    return TileCut(parts)


def _run_of(term: Term, cut: TileCut) -> int:
    """Steps at a time: as many as leave the parts evenly loaded, the longest run where several do."""
    steps = term.depth // step_of(term.bits)
    runs = [run for run in (4, 2, 1) if run <= cut.run and steps % run == 0]
    return min(runs, key=lambda run: -(-steps // run // cut.parts) * run)


@cache
def tile_job(product: Product, cut: TileCut | None = None) -> Job:
    """The job of one product; arguments as those of `product.job`. A norm of the whole vector has to be `ready`."""
    if not FEWEST <= product.vectors <= MOST:
        raise ValueError(f"the matrix units take {FEWEST} to {MOST} vectors, not {product.vectors}")
    cut = cut or cut_of(product.rows)
    block_rows = SIMDS // cut.parts * TILE
    columns, vectors = -(-product.vectors // 8), product.vectors
    inputs: list[str] = []
    text = [
        f"const u32 base = block * {block_rows}u, last = {product.rows - 1}u;",
        f"const u32 first = base + simd / {cut.parts}u * {TILE}u + lane / 4u;",
        "const u32 row = first < last ? first : last, other = first + 8u < last ? first + 8u : last;",
        f"float acc[{columns * 4}]; UNROLL for (int i = 0; i < {columns * 4}; i++) acc[i] = 0.0f;",
        "SHARED float* spare = (SHARED float*)pool;",
    ]
    floats, factor = SIMDS * columns * 128, ""
    for t, term in enumerate(product.terms):
        norm, units = term.norm, term.depth // 8
        groups = norm.groups if norm else 0
        inputs += [f"x{t}", *([f"norm{t}"] if norm else []), f"w{t}"]
        inputs += [f"scales{t}", f"biases{t}"] if term.bits < 16 else []
        scales, biases = (f"@scales{t}", f"@biases{t}") if term.bits < 16 else (f"@w{t}", f"@w{t}")
        matrix = f"(GLOBAL const u32*)@w{t}, (GLOBAL const u16*){scales}, (GLOBAL const u16*){biases}, row, other"
        if norm and groups:
            floats = max(floats, groups * vectors)
            text.append(
                f"group_factors<{groups}, {norm.partials}, {vectors}, {term.depth // groups}, {THREADS}>"
                f"(spare, @norm{t}, {norm.eps!r}f, tid);"
            )
        elif norm:
            if not norm.ready:
                raise ValueError("a norm has to be ready for the matrix units, see launch.prepare")
            factor = f"value *= @norm{t}[v];"
        run = _run_of(term, cut)
        shape = f"{term.bits}, {term.group}, {term.depth}, {columns}, {run}, {cut.parts}, {groups}, {vectors}"
        text += [
            f"GLOBAL const u32x4* vector{t}[{columns}];",
            f"UNROLL for (u32 v = 0; v < {columns}u; v++) vector{t}[v] = (GLOBAL const u32x4*)@x{t} + "
            f"(v * 8 + lane / 4u < {vectors}u ? v * 8 + lane / 4u : 0u) * {units}u;",
            f"add_tiles<{shape}>(acc, {matrix}, vector{t}, spare, simd % {cut.parts}u, lane);",
        ]
    text += [
        f"leave_tile<{columns}>(spare, acc, simd, lane);",
        f"for (u32 i = tid; i < {block_rows * vectors}u; i += {THREADS}u) {{",
        f"const u32 v = i / {block_rows}u, r = i % {block_rows}u, n = base + r;",
        f"float value = tile_total<{columns}, {cut.parts}>(spare, r / {TILE}u, r % {TILE}u, v);",
        f"if (n <= last) {{ const u64 at = (u64)v * {product.rows}u + n;",
        factor,
        *(["value = squared_relu(value);"] if product.relu2 else []),
        *(f"value += bf16_f32(((GLOBAL const u16*)@addend{i})[at]);" for i in range(product.addends)),
        "((GLOBAL u16*)@out)[at] = (u16)round_bf16(value);" if product.out == "bf16" else "@out[at] = value;",
        "} }",
    ]
    return Job(
        name="tiles",
        body="\n".join(text),
        groups=-(-product.rows // block_rows),
        inputs=(*inputs, *(f"addend{i}" for i in range(product.addends))),
        outputs=("out",),
        shared_bytes=floats * 4,
        headers=HEADERS,
        threads=THREADS,
    )


@cache
def prepare_job(depth: int, vectors: int, eps: float) -> Job:
    """A norm's work for several vectors: each times the weight, bf16, and 1 / rms of each."""
    return Job(
        name="prepare",
        body=f"""
  float squares[1];
  squares[0] = weigh<{depth // 8}, {THREADS}>((GLOBAL u32x4*)@out + block * {depth // 8}u,
      (GLOBAL const u32x4*)@x + block * {depth // 8}u, (GLOBAL const u32x4*)@gain, tid);
  SHARED float* spare = (SHARED float*)pool;
  const float whole = whole_factor<1, {SIMDS}, {depth}>(squares, spare, {eps!r}f, 0, simd, lane);
  if (tid == 0) @factors[block] = whole;""",
        groups=vectors,
        inputs=("x", "gain"),
        outputs=("out", "factors"),
        shared_bytes=SIMDS * 4,
        headers=HEADERS,
        threads=THREADS,
    )
