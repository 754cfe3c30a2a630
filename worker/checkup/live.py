"""What MLX computes on in this environment, tried out: `python -m worker.checkup.live` prints it as one JSON object."""

import msgspec

from worker.checkup.backend import Live
from worker.mlx_settings import set_defaults

set_defaults()

import mlx.core as mx  # noqa: E402 its settings come first

from kernels import backend  # noqa: E402
from kernels.bandwidth import GROUP_BYTES, read_all  # noqa: E402


def live() -> Live:
    """Runs MLX's own operations, and a kernel of ours where there is a dialect for it."""
    info = mx.device_info()
    current = backend.current()
    problem = ""
    try:
        words = mx.arange(GROUP_BYTES // 4, dtype=mx.uint32)
        ones = mx.sum(words & 1).item()
        if ones != words.size // 2:
            problem = f"MLX counts {ones} odd numbers below {words.size}"
        elif current.fused and mx.sum(read_all(words)).item() == 0:
            problem = "a kernel reads nothing but zeros"
    except (RuntimeError, ValueError) as error:  # what MLX raises when a kernel cannot be compiled or launched
        problem = (str(error).strip().splitlines() or ["no reason given"])[0]
    return Live(
        dialect=current.dialect,
        why=current.why,
        device=str(info.get("device_name", "")),
        recommended_bytes=int(info.get("max_recommended_working_set_size", 0)),
        problem=problem,
    )


if __name__ == "__main__":
    print(msgspec.json.encode(live()).decode())
