"""Writes the kernel text of a product: rows of one or more packed matrices times 1 to 8 vectors.

Shapes: S vectors (1 to 8), D length of a row, N rows, E experts, K experts chosen for a vector.
"""

from dataclasses import dataclass
from functools import cache

from kernels.dialect.jobs import Job
from kernels.dialect.kernel import SIMD

MAX_VECTORS = 8
_POOL_BYTES = 30 * 1024  # for the staged vectors; the rest of Apple's 32 KB holds norms and partial sums
_PROCESSORS = 132  # an H200's; geometry aims at filling about this many
HEADERS = (("matvec", "product.h"),)


@dataclass(frozen=True, slots=True)
class Norm:
    """RMS norm before a product.

    With `groups` 0 the kernel takes the whole vector's mean square and multiplies by the norm's weight. Else the vector
    comes with the weight in it and, for each of `groups` equal parts, with `partials` sums of squares [S, groups,
    partials] fp32. `ready` vectors hold the weight as well, and 1 / rms of each comes beside them, [S] fp32.
    """

    eps: float
    groups: int = 0
    partials: int = 0
    ready: bool = False


@dataclass(frozen=True, slots=True)
class Term:
    """One matrix and the vectors it multiplies."""

    bits: int
    group: int
    depth: int
    norm: Norm | None = None

    def __post_init__(self) -> None:
        part = self.depth // max(1, self.norm.groups) if self.norm else self.depth
        if self.depth % (8 if self.bits == 16 else self.group) or part % self.step:
            raise ValueError(f"no kernel for rows of {self.depth} at {self.bits} bits in norm groups of {part}")

    @property
    def step(self) -> int:
        """Weights that a lane takes at a time."""
        return 16 if self.bits == 8 else 8 if self.bits == 16 else 32

    @property
    def row_bytes(self) -> int:
        """Packed weights of one row, without scales."""
        return self.depth * self.bits // 8


@dataclass(frozen=True, slots=True)
class Geometry:
    """How N rows are cut: `simds` a threadgroup, `rows` at a time in a simdgroup, `parts` simdgroups share a row."""

    simds: int
    rows: int
    parts: int

    def __post_init__(self) -> None:
        if self.simds % self.parts:
            raise ValueError(f"{self.simds} simdgroups do not divide into teams of {self.parts}")

    @property
    def block(self) -> int:
        """Rows of one threadgroup."""
        return self.simds // self.parts * self.rows


@dataclass(frozen=True, slots=True)
class Product:
    """out[s, n] = end(sum over terms of W[n] . norm(x[s])) + addends, N rows, S vectors.

    `relu2` squares the positive part; `out` is "bf16" or "f32"; `addends` bf16 vectors [S, N] are added last.
    With `chosen` K > 0 the only term's matrix is [E, N, D], out is [S, K, N] and row blocks follow the expert indices.
    """

    terms: tuple[Term, ...]
    rows: int
    vectors: int
    relu2: bool = False
    out: str = "bf16"
    addends: int = 0
    chosen: int = 0
    index_stride: int = 0

    def __post_init__(self) -> None:
        if self.vectors < 1:
            raise ValueError("a product takes at least 1 vector")
        if len(self.terms) > 1 and any(term.norm for term in self.terms):
            raise ValueError("a norm goes with a single term")


def geometry_of(product: Product, alone: bool) -> Geometry:
    """The cut that measured best, see README.md; jobs that share a launch (not `alone`) have 8 simdgroups each.

    `simds` and `parts` fix the order of the sums and do not depend on the number of vectors, so a vector's result is
    the same, bit for bit, alone and among others.
    """
    rows_in_all = product.rows * max(1, product.chosen)
    enough = _PROCESSORS * 16  # simdgroups: four for each scheduler of every processor
    parts = 1
    while parts < 4 and rows_in_all // 4 * parts < enough:
        parts *= 2
    few = rows_in_all // 4 * parts < enough
    several = product.vectors > 4 and not product.chosen
    # 36 simdgroups of 56 registers fit a processor in fours, 32 in eights: 8-bit in_proj 25.2 us against 31.0
    simds = 4 if alone and parts == 1 and product.terms[0].bits >= 8 else 8
    return Geometry(simds=simds, rows=2 if few or several else 4, parts=parts)


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _chunk(units: int, block: int, room: int) -> int:
    """Units staged at a time: whole blocks, as few pieces as fit into `room`, of about the same size."""
    pieces = -(-_round_up(units, block) // (room // block * block))
    return _round_up(-(-units // pieces), block)


@cache
def job(product: Product, cut: Geometry | None = None, alone: bool = True) -> Job:
    """The job of one product; arguments: per term x, [norm], weight, [scales, biases]; then addends; then indices."""
    if any(term.norm and term.norm.ready for term in product.terms):
        raise ValueError("a norm that is ready goes with the matrix units")
    if product.vectors > MAX_VECTORS and not product.chosen:
        raise ValueError(f"a product takes 1 to {MAX_VECTORS} vectors, not {product.vectors}")
    cut = cut or geometry_of(product, alone)
    threads = cut.simds * SIMD
    vectors = 1 if product.chosen else product.vectors
    sums = cut.rows * vectors
    blocks = -(-product.rows // cut.block)
    inputs: list[str] = []
    text = [
        f"const u32 first = block % {blocks}u * {cut.block}u + simd / {cut.parts}u * {cut.rows}u;",
        f"const u32 part = simd % {cut.parts}u;",
        f"u32 rows[{cut.rows}]; take_rows<{product.rows}, {cut.rows}>(rows, first);",
        f"float acc[{sums}]; UNROLL for (int i = 0; i < {sums}; i++) acc[i] = 0.0f;",
        "SHARED float* spare = (SHARED float*)pool;",
    ]
    if product.chosen:
        text += [
            f"const u32 pair = block / {blocks}u, token = pair / {product.chosen}u;",
            f"const u64 expert = @indices[token * {product.index_stride}u + pair % {product.chosen}u];",
        ]
    spare_floats, staged_units = threads, 0
    for t, term in enumerate(product.terms):
        norm, units = term.norm, term.depth // 8
        inputs += [f"x{t}", *([f"norm{t}"] if norm else []), f"w{t}"]
        inputs += [f"scales{t}", f"biases{t}"] if term.bits < 16 else []
        of_expert = f" + expert * {product.rows * term.row_bytes // 4}u" if product.chosen else ""
        groups_of_expert = f" + expert * {product.rows * term.depth // term.group}u" if product.chosen else ""
        of_token = f" + token * {units}u" if product.chosen else ""
        scales, biases = (f"@scales{t}", f"@biases{t}") if term.bits < 16 else (f"@w{t}", f"@w{t}")
        matrix = (
            f"(GLOBAL const u32*)@w{t}{of_expert}, (GLOBAL const u16*){scales}{groups_of_expert}, "
            f"(GLOBAL const u16*){biases}{groups_of_expert}, rows"
        )
        x = f"(GLOBAL const u32x4*)@x{t}{of_token}"
        shape = f"{term.bits}, {term.group}, {term.depth}, {cut.rows}, {vectors}, {cut.parts}"
        if norm is None or norm.groups:
            groups = norm.groups if norm else 0
            if norm:
                spare_floats = max(spare_floats, groups * vectors)
                text.append(
                    f"group_factors<{groups}, {norm.partials}, {vectors}, {term.depth // groups}, {threads}>"
                    f"(spare, @norm{t}, {norm.eps!r}f, tid);"
                )
            text.append(f"add_direct<{shape}, {groups}>(acc, {matrix}, {x}, spare, part, lane);")
        else:
            chunk = _chunk(units, SIMD * term.step // 8, _POOL_BYTES // 16 // vectors)
            staged_units = chunk * vectors
            spare_floats = _round_up(max(spare_floats, vectors * cut.simds), 4)
            text += [
                f"float squares[{vectors}];",
                f"add_normed<{shape}, {chunk}, {threads}>(acc, squares, {matrix}, {x}, (GLOBAL const u32x4*)@norm{t}, "
                f"pool + {spare_floats // 4}, part, lane, tid);",
            ]
    text.append(f"float value = team_total<{cut.parts}, {cut.simds}>(totals<{sums}>(acc, lane), spare, simd, lane);")
    norm = product.terms[0].norm
    if norm and not norm.groups:
        text.append(
            f"value *= whole_factor<{vectors}, {cut.simds}, {product.terms[0].depth}>"
            f"(squares, spare, {norm.eps!r}f, lane % {vectors}u, simd, lane);"
        )
    vector = "pair" if product.chosen else f"(lane % {vectors}u)"
    text += [
        f"const u32 row = first + lane / {vectors}u;",
        f"if (part == 0 && lane < {sums}u && row < {product.rows}u) {{",
        f"const u64 at = (u64){vector} * {product.rows}u + row;",
        *(["value = squared_relu(value);"] if product.relu2 else []),
        *(f"value += bf16_f32(((GLOBAL const u16*)@addend{i})[at]);" for i in range(product.addends)),
        "((GLOBAL u16*)@out)[at] = (u16)round_bf16(value);" if product.out == "bf16" else "@out[at] = value;",
        "}",
    ]
    inputs += [f"addend{i}" for i in range(product.addends)] + (["indices"] if product.chosen else [])
    return Job(
        name="product",
        body="\n".join(text),
        groups=blocks * (product.chosen * product.vectors if product.chosen else 1),
        inputs=tuple(inputs),
        outputs=("out",),
        shared_bytes=spare_floats * 4 + staged_units * 16,
        headers=HEADERS,
        threads=threads,
    )
