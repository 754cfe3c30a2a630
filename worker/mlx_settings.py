"""What MLX reads from the environment when it starts; to be set before `import mlx`. What the user has set stays."""

import os
import sys

# An expert stack counts as hundreds of MB of new inputs and would end a command buffer (Metal) or a graph (CUDA) at
# each product; this limit is above the largest stack of the family. On CUDA, 45 operations a graph gave the best
# decode rate (docs/log.md); on Metal MLX's own default stays until somebody has measured there.
_DEFAULTS = {"MLX_MAX_MB_PER_BUFFER": "1000000"}
_ON_LINUX = {"MLX_MAX_OPS_PER_BUFFER": "45"}


def set_defaults() -> None:
    """Set what is not set yet."""
    for name, value in (_DEFAULTS | (_ON_LINUX if sys.platform == "linux" else {})).items():
        os.environ.setdefault(name, value)
