"""What layers run on: kernels of ours on a GPU, or plain MLX on the processor, and why."""

import subprocess
import sys

import msgspec

from worker.agent.messages import Finding
from worker.checkup.check import Check

SECONDS = 60.0  # CUDA compiles a kernel anew

WITH_CPU = "python -m pip install 'stageline[cpu]'"
WITH_CUDA = "python -m pip install 'stageline[cuda13]'"
ARM_PYTHON = "install an arm64 build of Python, and Stageline into it: a Python for Intel processors sees no GPU"
IMPORT = "`python -c 'import mlx.core'` shows all of it"
TRY_KERNELS = "`stageline bench kernels` shows all of it"
CHECK = Check(
    "backend",
    "What MLX computes on, and whether decode runs through fused kernels (metal, cuda) or as plain MLX operations; one "
    "of each is tried in a process of its own. Fails if MLX does not start or computes wrongly, warns if there is a "
    "GPU that it does not use.",
    (WITH_CPU, WITH_CUDA, ARM_PYTHON, IMPORT, TRY_KERNELS),
)


class Live(msgspec.Struct, frozen=True, kw_only=True):
    """What `worker.checkup.live` found. `recommended_bytes` is what Metal lets this machine's GPU have, else 0.

    `problem` says what went wrong when it was tried, "" if nothing.
    """

    dialect: str
    why: str
    device: str
    recommended_bytes: int = 0
    problem: str = ""


def try_backend() -> Live | str:
    """What a process with MLX says; if it cannot, its last words."""
    command = [sys.executable, "-P", "-m", "worker.checkup.live"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return f"no answer within {SECONDS:g} s"
    if done.returncode != 0:
        return (done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"])[-1]
    return msgspec.json.decode(done.stdout, type=Live)


def backend(live: Live | str, *, system: str, processor: str, cards: int) -> Finding:
    """`system` and `processor` as `platform` names them; `cards` NVIDIA cards are there."""
    if isinstance(live, str):
        fix = IMPORT
        if system == "Linux" and "libmlx" in live:  # the package `mlx` alone holds no library there
            fix = WITH_CUDA if cards else WITH_CPU
        return CHECK.fail(f"MLX does not start: {live}", fix)
    told = f"{live.device or processor}: {live.why}, "
    if live.problem:
        return CHECK.fail(f"{told}but {live.problem}", TRY_KERNELS)
    if live.dialect != "reference":
        return CHECK.ok(f"{told}fused kernels run as {live.dialect}")
    told = f"{told}layers run as plain MLX operations on the processor"
    if cards:
        return CHECK.warn(f"{told}; {cards} NVIDIA card{'s' * (cards > 1)} unused", WITH_CUDA)
    if system == "Darwin" and processor != "arm64":
        return CHECK.warn(told, ARM_PYTHON)
    return CHECK.ok(told)
