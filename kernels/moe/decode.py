"""A mixture-of-experts layer for a few tokens, in five launches.

    1  norm, router logits, latent input             (one pass over the hidden vector)
    2  norm, shared expert's up projection           beside it, on its own threadgroups: the choice of experts
    3  chosen experts' up projection, squared ReLU
    4  chosen experts' down projection, weighted sum
    5  latent output + shared expert's down projection + residual

Shapes: T tokens (1 to 8), D hidden, L latent, I expert's intermediate, J shared expert's, E experts, K chosen a token.
"""

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from kernels.dialect.jobs import Job, launch
from kernels.dialect.kernel import MIN_INPUT_SIZE, SIMD
from kernels.matvec import weight
from kernels.matvec.launch import Gain, Output, Ready, combine, on_tiles, prepare, project, term_arrays, term_of
from kernels.matvec.product import HEADERS, Product, job
from kernels.matvec.weight import Weight, arrays_of, bits_of, depth_of, group_of

CHOICE_THREADS = 256
MAX_EXPERTS = 2048


@dataclass(frozen=True, slots=True)
class Routing:
    """How experts are chosen: `top` of `experts`, weights normalised or not, then scaled."""

    experts: int
    top: int
    normalize: bool
    scaling: float

    @property
    def stride(self) -> int:
        """Length of a row of indices and of weights: `top`, padded so that no array is tiny."""
        return max(self.top, MIN_INPUT_SIZE)


@dataclass(frozen=True, slots=True)
class MoEWeights:
    """A layer's arrays: `router` [E, D], `correction` [E] fp32, `up` [E, I, L], `down` [E, L, I]; the rest may be None.

    `latent_in` [L, D], `latent_out` [D, L], `shared_up` [J, D], `shared_down` [D, J]. Without latent, L is D.
    """

    gain: Gain
    router: Weight
    correction: mx.array
    up: Weight
    down: Weight
    shared_up: Weight | None
    shared_down: Weight | None
    latent_in: Weight | None
    latent_out: Weight | None


@cache
def choice_job(routing: Routing, tokens: int) -> Job:
    """Choice of experts, one threadgroup a token."""
    experts, stride = routing.experts, routing.stride
    floats = 3 * experts + stride + 1
    return Job(
        name="choose",
        body=f"""
  SHARED float* keys = (SHARED float*)pool;
  SHARED u32* found = (SHARED u32*)pool + {2 * experts};
  SHARED float* chosen = keys + {3 * experts};
  choose<{experts}, {routing.top}, {stride}>(@logits + block * {experts}u, @correction, @indices + block * {stride}u,
      @weights + block * {stride}u, keys, keys + {experts}, found, chosen, found + {experts + stride},
      {str(routing.normalize).lower()}, {routing.scaling!r}f, tid, {CHOICE_THREADS}u, lane, simd);""",
        groups=tokens,
        inputs=("logits", "correction"),
        outputs=("indices", "weights"),
        shared_bytes=floats * 4,
        headers=(("moe", "topk.h"),),
        threads=CHOICE_THREADS,
    )


def choose(logits_TE: mx.array, correction_E: mx.array, routing: Routing) -> tuple[mx.array, mx.array]:
    """Indices [T, stride] uint32 and weights [T, stride] fp32 of the chosen experts, best first, zeros behind `top`."""
    tokens = logits_TE.shape[0]
    shape = (tokens, routing.stride)
    indices, weights = launch(
        (choice_job(routing, tokens),), [logits_TE, correction_E], [shape, shape], [mx.uint32, mx.float32]
    )
    return indices, weights


def choose_beside(
    logits_TE: mx.array,
    correction_E: mx.array,
    routing: Routing,
    x_TD: mx.array,
    output: Output,
    norm: Gain | Ready,
) -> tuple[mx.array, mx.array, mx.array]:
    """`choose`, and one projection of x in the same launch on threadgroups of its own."""
    tokens = logits_TE.shape[0]
    shape = (tokens, routing.stride)
    units = isinstance(norm, Ready)
    indices, weights, y = launch(
        (choice_job(routing, tokens), output.job(tokens, norm, alone=False, units=units)),
        [logits_TE, correction_E, *term_arrays(x_TD, output.matrix, norm)],
        [shape, shape, (tokens, output.matrix.weight.shape[0])],
        [mx.uint32, mx.float32, output.dtype],
    )
    return indices, weights, y


def experts_up(x_TL: mx.array, up: Weight, indices_TK: mx.array, top: int, gain: Gain | None = None) -> mx.array:
    """Squared ReLU of the chosen experts' up projection: [T, K, I] bf16."""
    tokens, rows = x_TL.shape[0], up.weight.shape[1]
    product = Product((term_of(up, gain),), rows, tokens, relu2=True, chosen=top, index_stride=indices_TK.shape[1])
    return launch((job(product),), [*term_arrays(x_TL, up, gain), indices_TK], [(tokens, top, rows)], [mx.bfloat16])[0]


@dataclass(frozen=True, slots=True)
class DownCut:
    """Cut of the down projection: `rows` output rows a threadgroup, `simds` simdgroups share the experts' steps."""

    rows: int
    simds: int


@cache
def _down_job(bits: int, group: int, depth: int, rows: int, top: int, stride: int, cut: DownCut) -> Job:
    threads = cut.simds * SIMD
    packed = ("scales", "biases") if bits < 16 else ()
    scales = (
        "(GLOBAL const u16*)@scales, (GLOBAL const u16*)@biases"
        if packed
        else "(GLOBAL const u16*)@w, (GLOBAL const u16*)@w"
    )
    return Job(
        name="experts_down",
        body=f"""
  u32 rows[{cut.rows}];
  float acc[{cut.rows}];
  UNROLL for (int r = 0; r < {cut.rows}; r++) {{
    rows[r] = block * {cut.rows}u + r < {rows}u ? block * {cut.rows}u + r : {rows - 1}u;
    acc[r] = 0.0f;
  }}
  down_rows<{bits}, {group}, {depth}, {rows}, {top}, {cut.rows}, {threads}>(acc, (GLOBAL const u32*)@w, {scales},
      @indices + group_y * {stride}u, @weights + group_y * {stride}u,
      (GLOBAL const u32x4*)@hidden + (u64)group_y * {top * depth // 8}u, rows, tid);
  SHARED float* sums = (SHARED float*)pool;
  float total = totals<{cut.rows}>(acc, lane);
  if (lane < {cut.rows}u) sums[simd * {cut.rows} + lane] = total;
  barrier();
  const u32 row = block * {cut.rows}u + tid;
  if (tid < {cut.rows}u && row < {rows}u) {{
    float sum = 0.0f;
    for (u32 i = 0; i < {cut.simds}u; i++) sum += sums[i * {cut.rows} + tid];
    ((GLOBAL u16*)@out)[(u64)group_y * {rows}u + row] = (u16)round_bf16(sum);
  }}""",
        groups=-(-rows // cut.rows),
        inputs=("hidden", "w", *packed, "indices", "weights"),
        outputs=("out",),
        shared_bytes=cut.simds * cut.rows * 4,
        headers=(*HEADERS, ("moe", "down.h")),
        threads=threads,
    )


def experts_down(
    hidden_TKI: mx.array, down: Weight, indices_TK: mx.array, weights_TK: mx.array, cut: DownCut | None = None
) -> mx.array:
    """Weighted sum of the chosen experts' down projections: [T, L] bf16."""
    tokens, top, _ = hidden_TKI.shape
    rows = down.weight.shape[1]
    cut = cut or DownCut(rows=4, simds=16)
    work = _down_job(bits_of(down), group_of(down), depth_of(down), rows, top, indices_TK.shape[1], cut)
    arrays = [hidden_TKI, *arrays_of(down), indices_TK, weights_TK]
    return launch((work,), arrays, [(tokens, rows)], [mx.bfloat16], batch=tokens)[0]


def moe_decode(x_TD: mx.array, layer: MoEWeights, routing: Routing) -> mx.array:
    """x + MoE(norm(x)) for T tokens: [T, D] bf16."""
    outputs = [Output(layer.router, dtype=mx.float32)]
    if layer.latent_in is not None:
        outputs.append(Output(layer.latent_in))
    units = on_tiles(x_TD.shape[0], layer.router, layer.latent_in, layer.shared_up)
    weighed, norm = prepare(x_TD, layer.gain) if units else (x_TD, layer.gain)
    logits, *latent = project(weighed, outputs, norm)
    ends: list[tuple[mx.array, Weight]] = []
    if layer.shared_up is None or layer.shared_down is None:
        indices, weights = choose(logits, layer.correction, routing)
    else:
        shared_up = Output(layer.shared_up, relu2=True)
        indices, weights, shared = choose_beside(logits, layer.correction, routing, weighed, shared_up, norm)
        ends.append((shared, layer.shared_down))
    if latent:
        hidden = experts_up(latent[0], layer.up, indices, routing.top)
    else:
        hidden = experts_up(x_TD, layer.up, indices, routing.top, layer.gain)
    routed = experts_down(hidden, layer.down, indices, weights)
    if layer.latent_out is not None:
        return combine([(routed, layer.latent_out), *ends], [x_TD])
    return combine(ends, [x_TD, routed]) if ends else x_TD + routed


def why_not(layer: MoEWeights, routing: Routing) -> str | None:
    """Why no kernel takes this layer, or None when one does."""
    for name in ("router", "up", "down", "shared_up", "shared_down", "latent_in", "latent_out"):
        matrix = getattr(layer, name)
        if matrix is not None and (reason := weight.why_not(matrix)):
            return f"{name}: {reason}"
    if routing.experts > MAX_EXPERTS:
        return f"its {routing.experts} experts do not fit into threadgroup memory"
    return None
