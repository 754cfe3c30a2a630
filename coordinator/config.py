"""The settings of `stageline up`: built-in values < TOML file < environment < command line.

One struct holds every key with its type, bounds and description; the options of `up`, the environment variables
(`STAGELINE_` and the key in capitals) and `configs/example.toml` follow from it. `python -m coordinator.config` prints
the example.
"""

import difflib
import socket
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import msgspec
from msgspec import Meta

from coordinator.settings import Settings
from worker.checkpoint.quantization import parse_quantization
from worker.errors import ConfigError
from worker.links.addresses import is_loopback, split

PREFIX = "STAGELINE_"
HEADER = """\
# Settings of `stageline up --config FILE`. Every key is optional; what is commented out is the built-in value, or an
# example where there is none. The environment (STAGELINE_PORT=8001) overrides this file, and the command line
# (--port 8001) overrides both."""

_TYPES: dict[str, Any] = get_type_hints(Settings, include_extras=True)
KEYS = tuple(_TYPES)
_DEFAULTS: dict[str, Any] = msgspec.structs.asdict(Settings())


def description(key: str) -> str:
    """What `key` means, in one line, for `--help` and the example."""
    return _meta(key).description or ""


def default(key: str) -> Any:
    """The built-in value of `key`."""
    return _DEFAULTS[key]


def sample(key: str) -> Any:
    """The built-in value of `key`, or an example where there is none."""
    value = default(key)
    return value if value is not None else (_meta(key).examples or [""])[0]


def settings(file: Path | None, environment: Mapping[str, str], flags: Mapping[str, Any]) -> Settings:
    """The settings from all sources; a flag or a TOML key that is None or an empty variable counts as not given.

    Raises ConfigError naming the source and the key: unreadable file, unknown key, wrong type or bound, or settings
    that contradict each other.
    """
    values: dict[str, Any] = {}
    if file is not None:
        for key, value in _read(file).items():
            values[key] = _convert(key, value, f"{file}: {key}", strict=True)
    for key in KEYS:
        if text := environment.get(PREFIX + key.upper()):
            values[key] = _convert(key, text, PREFIX + key.upper(), strict=False)
    for key, value in flags.items():
        if value is not None:
            values[key] = _convert(key, value, flag(key), strict=False)
    return _checked(Settings(**values))


def flag(key: str) -> str:
    """The command-line option of `key`; the model is an argument."""
    return "MODEL" if key == "model" else "--" + key.replace("_", "-")


def example() -> str:
    """The text of `configs/example.toml`: every key with its description, commented out."""
    return "\n".join(_example_lines()) + "\n"


def _example_lines() -> Iterator[str]:
    yield HEADER
    for key in KEYS:
        yield ""
        yield from textwrap.wrap(description(key), 110, initial_indent="# ", subsequent_indent="# ")
        yield f"#{key} = {msgspec.json.encode(sample(key)).decode()}"


def _meta(key: str) -> Meta:
    return _TYPES[key].__metadata__[-1]


def _read(file: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot read the settings {file}: {error.strerror}", param="config") from error
    except ValueError as error:
        raise ConfigError(f"{file} is not TOML: {error}", param="config") from error
    for key in table:
        if key not in KEYS:
            near = difflib.get_close_matches(key.replace("-", "_"), KEYS, n=1)
            advice = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(KEYS)}"
            raise ConfigError(f"{file}: unknown key {key}; {advice}", param=key)
    return table


def _convert(key: str, value: Any, source: str, *, strict: bool) -> Any:
    try:
        return msgspec.convert(value, _TYPES[key], strict=strict)
    except msgspec.ValidationError as error:
        shown = "" if key == "api_key" else f" {value!r}"
        reason = str(error).replace(" | null", "")
        raise ConfigError(f"{source}{shown}: {reason} ({description(key)})", param=key) from error


def _checked(values: Settings) -> Settings:
    if values.quantize is not None:
        parse_quantization(values.quantize)
    if values.restart_delay > values.restart_delay_limit:
        raise ConfigError(
            f"restart_delay {values.restart_delay} is more than restart_delay_limit {values.restart_delay_limit}",
            param="restart_delay",
        )
    if values.api_key is not None and not is_presentable(values.api_key):
        raise ConfigError(
            "the API key must be printable ASCII without spaces at its ends, since clients send it in an HTTP header: "
            "choose another",
            param="api_key",
        )
    if values.control is not None:
        _check_control(values.control)
    if not values.launch and (values.hosts is None or values.control is None):
        raise ConfigError(
            "agents that run already are told by `hosts` which ones take part, and dial the address in `control`: "
            "give both",
            param="launch",
        )
    return values


def check_host(values: Settings) -> None:
    """For who serves HTTP: raises ConfigError if `host` is no address, or lets other machines in without a key."""
    if is_loopback(values.host):
        return
    try:
        socket.getaddrinfo(values.host.strip("[]"), None)
    except (OSError, UnicodeError) as error:  # UnicodeError: not even the form of a name
        raise ConfigError(
            f"--host {values.host}: no such name ({error}); give an address of this machine", param="host"
        ) from error
    if not (values.api_key or values.insecure):
        raise ConfigError(
            f"--host {values.host} lets other machines in: set STAGELINE_API_KEY, or pass --insecure if the network "
            "is trusted",
            param="host",
        )


def _check_control(address: str) -> None:
    try:
        split(address)
    except ValueError as error:
        raise ConfigError(
            f"--control {address}: expected IP:PORT, such as 10.0.0.1:8011, an address of this machine", param="control"
        ) from error


def is_presentable(key: str) -> bool:
    """Whether an HTTP header can carry the key as it is."""
    return key.isascii() and key.isprintable() and key == key.strip()


if __name__ == "__main__":
    print(example(), end="")
