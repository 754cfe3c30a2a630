"""The version of Stageline that runs here."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("stageline")
except PackageNotFoundError:
    VERSION = "unknown"  # run from a source tree that is not installed
