"""The expert path with the intermediate kept on chip: one launch, and a small one that adds up. Slower: see README.md.

A threadgroup takes a slice of one expert's intermediate: its rows of the up projection, squared ReLU, and their part of
the down projection.

Shapes: T tokens, K experts chosen for each, L what an expert takes and gives, I its intermediate.
"""

from functools import cache

import mlx.core as mx

from kernels.dialect.jobs import Job, launch
from kernels.dialect.kernel import SIMD
from kernels.matvec import weight
from kernels.matvec.product import HEADERS
from kernels.matvec.weight import Weight, arrays_of, bits_of, depth_of, group_of

SLICE = 128
SIMDS = 16
SUM_SIMDS = 8


def why_not(up: Weight, down: Weight) -> str | None:
    """Why this way does not take these experts, or None when it does."""
    if reason := weight.why_not(up) or weight.why_not(down):
        return reason
    if bits_of(up) != bits_of(down) or bits_of(up) == 16 or group_of(up) != group_of(down):
        return "it takes experts of one quantised format"
    return None if depth_of(down) % SLICE == 0 else f"{depth_of(down)} is not a multiple of {SLICE}"


@cache
def _slice_job(bits: int, group: int, wide: int, inner: int, top: int, stride: int, tokens: int) -> Job:
    slices = inner // SLICE
    words, groups = inner * wide * bits // 32, inner * wide // group
    matrix = "(GLOBAL const u32*)@{0} + expert * {1}u, (GLOBAL const u16*)@{0}_scales + expert * {2}u, "
    matrix += "(GLOBAL const u16*)@{0}_biases + expert * {2}u"
    return Job(
        name="expert_slice",
        body=f"""
  const u32 pair = block / {slices}u;
  const u64 expert = @indices[pair / {top}u * {stride}u + pair % {top}u];
  expert_slice<{bits}, {group}, {wide}, {inner}, {SLICE}, {SIMDS}>(@parts + (u64)block * {wide}u,
      {matrix.format("up", words, groups)},
      {matrix.format("down", words, groups)},
      (GLOBAL const u32x4*)@x + pair / {top}u * {wide // 8}u, pool, block % {slices}u, simd, lane);""",
        groups=tokens * top * slices,
        inputs=("x", "up", "up_scales", "up_biases", "down", "down_scales", "down_biases", "indices"),
        outputs=("parts",),
        shared_bytes=SLICE * 2,
        headers=(*HEADERS, ("moe", "slices.h")),
        threads=SIMDS * SIMD,
    )


@cache
def _sum_job(slices: int, top: int, stride: int, wide: int) -> Job:
    """A fixed order: simdgroup i adds up parts i, i + 8, .., then the eight sums follow each other."""
    return Job(
        name="sum_slices",
        body=f"""
  SHARED float* sums = (SHARED float*)pool;
  const u32 column = block * 32u + lane, safe = column < {wide}u ? column : 0u;
  float sum = 0.0f;
  for (u32 p = simd; p < {top * slices}u; p += {SUM_SIMDS}u)
    sum = fma_f32(@weights[group_y * {stride}u + p / {slices}u],
                  @parts[((u64)group_y * {top * slices}u + p) * {wide}u + safe], sum);
  sums[simd * 32 + lane] = sum;
  barrier();
  if (simd == 0 && column < {wide}u) {{
    for (u32 i = 1; i < {SUM_SIMDS}u; i++) sum += sums[i * 32 + lane];
    ((GLOBAL u16*)@out)[(u64)group_y * {wide}u + column] = (u16)round_bf16(sum);
  }}""",
        groups=-(-wide // 32),
        inputs=("parts", "weights"),
        outputs=("out",),
        shared_bytes=SUM_SIMDS * 32 * 4,
        headers=HEADERS,
        threads=SUM_SIMDS * SIMD,
    )


def experts_by_slices(
    x_TL: mx.array, up: Weight, down: Weight, indices_TK: mx.array, weights_TK: mx.array, top: int
) -> mx.array:
    """Weighted sum of the chosen experts' outputs: [T, L] bf16."""
    tokens, wide = x_TL.shape
    inner, stride = depth_of(down), indices_TK.shape[1]
    slices = inner // SLICE
    work = _slice_job(bits_of(up), group_of(up), wide, inner, top, stride, tokens)
    arrays = [x_TL, *arrays_of(up), *arrays_of(down), indices_TK]
    (parts,) = launch((work,), arrays, [(tokens, top * slices, wide)], [mx.float32])
    adding = _sum_job(slices, top, stride, wide)
    return launch((adding,), [parts, weights_TK], [(tokens, wide)], [mx.bfloat16], batch=tokens)[0]
