"""What a lazy MLX graph would run: its operations, counted before anything is computed."""

import re
import tempfile
from collections import Counter
from pathlib import Path

import mlx.core as mx

# these move no data: they give another shape to what is there
VIEWS = frozenset(
    {
        "AsStrided",
        "Broadcast",
        "BroadcastAxes",
        "Copy",
        "Depends",
        "ExpandDims",
        "Flatten",
        "Reshape",
        "Slice",
        "Split",
        "Squeeze",
        "StopGradient",
        "Transpose",
        "Unflatten",
        "View",
    }
)
_LABEL = re.compile(r'label ="([^"]*)"')


def operations(*arrays: mx.array) -> Counter[str]:
    """The operations that computing `arrays` takes, by MLX's names for them; views are left out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        mx.export_to_dot(str(path), *arrays)
        names = _LABEL.findall(path.read_text())
    return Counter(name for name in names if name not in VIEWS)
