"""What is installed here: `python -m worker.versions` prints it as one JSON object."""

import platform
from importlib.metadata import PackageNotFoundError, version

import msgspec

from worker.agent.messages import Versions
from worker.protocol import PROTOCOL_VERSION
from worker.version import VERSION


class Installed(msgspec.Struct, frozen=True):
    """What must agree between the hosts of a cluster."""

    versions: Versions
    protocol: int


def versions() -> Versions:
    """Those of this process and of the packages beside it; MLX is not imported."""
    return Versions(stageline=VERSION, python=platform.python_version(), mlx=_of("mlx"))


def _of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    print(msgspec.json.encode(Installed(versions(), PROTOCOL_VERSION)).decode())
