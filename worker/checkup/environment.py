"""Variables of the environment that harm MLX."""

from collections.abc import Mapping

from worker.agent.messages import Finding
from worker.checkup.check import Check

FAST_SYNCH = "MLX_METAL_FAST_SYNCH"

UNSET = f"unset {FAST_SYNCH}"
CHECK = Check(
    "environment",
    f"`{FAST_SYNCH}` is not set: with it a Mac's GPU can hang until the machine is started anew "
    "(github.com/ml-explore/mlx/issues/3142). Warns if it is.",
    (UNSET,),
)


def environment(variables: Mapping[str, str]) -> Finding:
    """Of the process that will start the workers."""
    value = variables.get(FAST_SYNCH, "")
    if value in ("", "0"):
        return CHECK.ok(f"{FAST_SYNCH} is not set")
    return CHECK.warn(f"{FAST_SYNCH}={value}: the GPU can hang", UNSET)
