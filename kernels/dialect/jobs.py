"""Several independent pieces of work in one launch, each with its own range of threadgroups."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from kernels.dialect.kernel import MAX_SHARED_BYTES, Kernel


@dataclass(frozen=True, slots=True)
class Job:
    """`body` runs on `groups` threadgroups that see their number as `block` and `shared_bytes` of memory as `pool`.

    `inputs` and `outputs` name the arguments in order; `@` before a name in the body marks it as this job's own, so
    that jobs can be joined. `headers` are (folder of kernels, file).
    """

    name: str
    body: str
    groups: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shared_bytes: int
    headers: tuple[tuple[str, str], ...]
    threads: int

    def __post_init__(self) -> None:
        if self.shared_bytes > MAX_SHARED_BYTES:
            raise ValueError(f"job {self.name}: {self.shared_bytes} bytes of threadgroup memory; Apple GPUs have 32768")


@cache
def _joined(jobs: tuple[Job, ...]) -> Kernel:
    units = max(1, -(-max(job.shared_bytes for job in jobs) // 16))
    threads = max(job.threads for job in jobs)
    if any(job.threads != threads for job in jobs):
        raise ValueError(f"jobs of one launch need the same number of threads: {[(j.name, j.threads) for j in jobs]}")
    parts = [f"  SHARED_ARRAY(u32x4, pool, {units});\n"]
    first = 0
    for index, job in enumerate(jobs):
        last = first + job.groups
        condition = f"if (group_x < {last}u) " if index + 1 < len(jobs) else ""
        body = job.body.replace("@", f"a{index}_")
        parts.append(f"  {condition}{{\n  const u32 block = group_x - {first}u;\n{body}\n  }}")
        parts.append(" else " if index + 1 < len(jobs) else "\n")
        first = last
    return Kernel(
        name="_".join(job.name for job in jobs),
        inputs=tuple(f"a{i}_{n}" for i, job in enumerate(jobs) for n in job.inputs),
        outputs=tuple(f"a{i}_{n}" for i, job in enumerate(jobs) for n in job.outputs),
        body="".join(parts),
        headers=tuple(dict.fromkeys(header for job in jobs for header in job.headers)),
        threads=threads,
    )


def launch(
    jobs: tuple[Job, ...],
    inputs: Sequence[mx.array],
    shapes: Sequence[tuple[int, ...]],
    dtypes: Sequence[mx.Dtype],
    batch: int = 1,
) -> list[mx.array]:
    """One launch of all jobs; arguments of the jobs follow each other. `batch` repeats the grid along `group_y`."""
    return _joined(jobs)(inputs, (sum(job.groups for job in jobs), batch), shapes, dtypes)
