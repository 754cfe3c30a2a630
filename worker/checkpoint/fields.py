"""Typed access to the values of a JSON file, with errors that name file and key; no MLX."""

import json
from collections.abc import Mapping
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

from worker.errors import CheckpointError

# older names of a key, as transformers still reads them
ALIASES = {
    "n_groups": "mamba_n_groups",
    "conv_kernel": "mamba_d_conv",
    "use_conv_bias": "mamba_conv_bias",
    "time_step_limit": "mamba_dt_limit",
    "head_dim": "attention_head_dim",
}

_FLOAT_TAGS = {"Infinity": inf, "-Infinity": -inf}
_MISSING: Any = object()


def refuse_irregular(path: Path) -> None:
    """CheckpointError if `path` is a directory, a pipe or a device; opening one may wait for ever."""
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: is not a regular file")


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in file `path`; CheckpointError, naming the file, if there is none."""
    refuse_irregular(path)
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent}: no {path.name}, expected the directory of a checkpoint") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object")
    return content


class Fields:
    """Typed access to a config, or to one layer's overrides (`block`, at `path` in the file) on top of it.

    Null is absent. A getter raises CheckpointError, naming file and key, if the value is missing and has no default, or
    is not what the getter's name says.
    """

    def __init__(self, config: Mapping[str, Any], where: str, block: Mapping[str, Any] | None = None, path: str = ""):
        self.config = config
        self.where = where
        self.block = block or {}
        self.path = path

    def get(self, key: str, default: Any = None) -> Any:
        """The value as it is."""
        for name in (key, ALIASES.get(key)):
            for source in (self.block, self.config):
                if name is not None and source.get(name) is not None:
                    return source[name]
        if default is _MISSING:
            raise CheckpointError(f"{self.where}: {key} is missing")
        return default

    def error(self, key: str, problem: str) -> CheckpointError:
        """An error about the value of `key`."""
        path = self.path if key in self.block else ""
        value = self.get(key)
        return CheckpointError(f"{self.where}: {path}{key} is {value!r}, {problem}")

    def require(self, key: str, allowed: tuple[Any, ...]) -> None:
        """Absent, null or one of `allowed`."""
        if self.get(key) is not None and self.get(key) not in allowed:
            supported = repr(allowed[0]).lower() if allowed else "null"
            raise self.error(key, f"only {supported} is supported")

    def size(self, key: str, default: Any = _MISSING) -> int:
        """A positive integer."""
        value = self.get(key, default)
        if type(value) is not int or value < 1:
            raise self.error(key, "expected a positive integer")
        return value

    def optional_size(self, key: str) -> int | None:
        """A positive integer, or None if absent."""
        return None if self.get(key) is None else self.size(key)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.error(key, "expected true or false")
        return value

    def number(self, key: str, default: float) -> float:
        """A finite positive number."""
        value = as_float(self.get(key, default))
        if value is None or not 0 < value < inf:
            raise self.error(key, "expected a positive number")
        return value

    def multiple(self, key: str, by: str) -> None:
        """Size `key` is a multiple of size `by`."""
        if self.size(key) % self.size(by):
            raise self.error(key, f"not a multiple of {by} ({self.get(by)})")


def as_float(value: Any) -> float | None:
    """A JSON number, also as transformers tags the infinite ones; None for anything else."""
    if isinstance(value, dict):
        value = _FLOAT_TAGS.get(str(value.get("__float__")))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    # JSON allows integers beyond any float
    number = float(value) if abs(value) < 1e300 or value in (inf, -inf) else nan
    return None if isnan(number) else number
