"""A Mamba-2 layer for one token in one launch: a grid that stays, with barriers across the device between its phases.

CUDA only. Every threadgroup has to be resident at once, which nothing here can check: a grid that is too large waits in
vain at its first barrier, gives up and computes nonsense. Slower than three launches, see README.md.

Shapes as in `decode.py`.
"""

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from kernels.dialect.kernel import SIMD, Kernel
from kernels.mamba.decode import MambaWeights, Mixer, StepCut, _step_job
from kernels.matvec.launch import term_of
from kernels.matvec.product import Geometry, Norm, Product, Term, job
from kernels.matvec.weight import arrays_of

TRIES = 1 << 18  # looks at the counter, 0.15 us each
# the counter only ever grows, so that nobody has to set it back between launches
BARRIER = """
  __syncthreads();
  if (tid == 0) {{
    __threadfence();
    const u32 before = atomicAdd((u32*)counter, 1u), goal = (before / {groups}u + 1u) * {groups}u;
    for (u32 tries = 0; tries < {tries}u && (int)(*(volatile u32*)counter - goal) < 0; tries++) {{}}
    __threadfence();
  }}
  __syncthreads();
"""


@dataclass(frozen=True, slots=True)
class Grid:
    """`groups` threadgroups of `simds` simdgroups; `rows` of in_proj a simdgroup; `splits` of a head."""

    groups: int = 264  # two for each processor of an H200: 69 registers let three in, but three never all arrived
    simds: int = 8
    rows: int = 4
    splits: int = 2


@cache
def _kernel(inward: Term, outward: Term, mixer: Mixer, hidden: int, biased: bool, grid: Grid) -> Kernel:
    phases = (
        job(Product((inward,), mixer.rows, 1), Geometry(grid.simds, grid.rows, 1)),
        _step_job(mixer, 1, False, biased, StepCut(grid.splits, grid.simds)),
        job(Product((outward,), hidden, 1, addends=1), Geometry(grid.simds, 2, 4)),
    )
    names = (
        {"x0": "x", "norm0": "gain", "w0": "win", "scales0": "win_s", "biases0": "win_b", "out": "projected"},
        {"state": "held"},
        {
            "x0": "gated",
            "norm0": "squares",
            "w0": "wout",
            "scales0": "wout_s",
            "biases0": "wout_b",
            "addend0": "x",
            "out": "y",
        },
    )
    text = [f"  SHARED_ARRAY(u32x4, pool, {max(-(-work.shared_bytes // 16) for work in phases)});\n"]
    for phase, (work, new) in enumerate(zip(phases, names, strict=True)):
        body = work.body
        for name in sorted((*work.inputs, *work.outputs), key=len, reverse=True):
            body = body.replace(f"@{name}", new.get(name, name))
        if phase:
            text.append(BARRIER.format(groups=grid.groups, tries=TRIES))
        text.append(f"  for (u32 block = group_x; block < {work.groups}u; block += {grid.groups}u) {{\n")
        text.append(f"{body}\n  barrier();\n  }}\n")
    packed = [
        (name, f"{name}_s", f"{name}_b") if term.bits < 16 else (name,)
        for name, term in (("win", inward), ("wout", outward))
    ]
    small = ("conv", *(("conv_bias",) if biased else ()), "rate", "skip", "dt_bias", "gate_weight")
    return Kernel(
        name="mamba_whole",
        inputs=("x", "gain", *packed[0], *packed[1], "tail", "held", *small, "counter"),
        outputs=("projected", "gated", "squares", "new_tail", "new_state", "y"),
        body="".join(text),
        headers=tuple(dict.fromkeys(header for work in phases for header in work.headers)),
        threads=grid.simds * SIMD,
    )


def mamba_whole(
    x_TD: mx.array,
    tail_BWC: mx.array,
    state_BHPN: mx.array,
    layer: MambaWeights,
    mixer: Mixer,
    counter: mx.array,
    grid: Grid | None = None,
) -> tuple[mx.array, mx.array, mx.array]:
    """What `mamba_decode` returns for one token, bit for bit. `counter` [8] uint32, zeros once, counts for ever."""
    grid = grid or Grid()
    partials = mixer.heads * grid.splits // mixer.groups
    out = term_of(layer.out_proj, None)
    outward = Term(out.bits, out.group, out.depth, Norm(layer.gate_gain.eps, mixer.groups, partials))
    biased = [] if layer.conv_bias is None else [layer.conv_bias]
    kernel = _kernel(term_of(layer.in_proj, layer.gain), outward, mixer, x_TD.shape[1], bool(biased), grid)
    matrices = [*arrays_of(layer.in_proj), *arrays_of(layer.out_proj)]
    small = [layer.conv, *biased, layer.rate, layer.skip, layer.dt_bias, layer.gate_gain.weight]
    *_, tail, state, y_TD = kernel(
        [x_TD, layer.gain.weight, *matrices, tail_BWC, state_BHPN, *small, counter],
        (grid.groups, 1),
        [(1, mixer.rows), (1, mixer.inner), (1, mixer.groups, partials), tail_BWC.shape, state_BHPN.shape, x_TD.shape],
        [mx.bfloat16, mx.bfloat16, mx.float32, mx.bfloat16, mx.float32, mx.bfloat16],
    )
    return y_TD, tail, state
