"""Shapes of models, one file each: `config` is what a checkpoint's config.json would say."""

import tomllib
from importlib.resources import files
from typing import Any

from worker.errors import ConfigError


def preset(name: str) -> dict[str, Any]:
    """The content of `NAME.toml`. Raises ConfigError if there is none."""
    presets = {
        file.name.removesuffix(".toml"): file for file in files(__name__).iterdir() if file.name.endswith("toml")
    }
    if name not in presets:
        raise ConfigError(f"no preset {name!r}, there are {', '.join(sorted(presets))}", param="preset")
    return tomllib.loads(presets[name].read_text(encoding="utf-8"))
