"""Whether Python and MLX are those that Stageline is made for."""

from importlib.metadata import PackageNotFoundError, version

from worker.agent.messages import Finding, Versions
from worker.checkup.check import Check
from worker.protocol import PROTOCOL_VERSION

PYTHON = ((3, 11), (3, 14))  # from, and below; as pyproject.toml has them
MLX = "0.32.4"

NEWER_PYTHON = "install Stageline into an environment of Python 3.11, 3.12 or 3.13"
SAME_MLX = "python -m pip install 'mlx=={mlx}'"
CHECK = Check(
    "versions",
    "Python is 3.11 to 3.13 and MLX the release that the kernels are tested with; mlx-lm, which only `bench` needs, "
    "and the protocol are told. Fails for another Python or no MLX, warns for another MLX.",
    (NEWER_PYTHON, SAME_MLX),
)


def mlx_lm() -> str:
    """The version of mlx-lm, or "none"."""
    try:
        return version("mlx-lm")
    except PackageNotFoundError:
        return "none"


def installed(found: Versions, mlx_lm: str) -> Finding:
    """`found` may name the package of MLX's backend after its version: "0.32.4 mlx-cuda-13"."""
    told = (
        f"stageline {found.stageline}, protocol {PROTOCOL_VERSION}, python {found.python}, mlx {found.mlx}, "
        f"mlx-lm {mlx_lm}"
    )
    major, minor = (int(part) for part in found.python.split(".")[:2])
    if not PYTHON[0] <= (major, minor) < PYTHON[1]:
        return CHECK.fail(told, NEWER_PYTHON)
    if found.mlx.startswith("none"):
        return CHECK.fail(told, SAME_MLX.format(mlx=MLX))
    if found.mlx.split()[0] != MLX:
        return CHECK.warn(f"{told}; made for mlx {MLX}", SAME_MLX.format(mlx=MLX))
    return CHECK.ok(told)
