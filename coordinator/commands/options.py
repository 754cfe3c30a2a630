"""Options that several commands share: the settings of `up`, and where a running coordinator is."""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import click

from coordinator import config

Command = TypeVar("Command", bound=Callable[..., Any])


def setting(key: str) -> Callable[[Command], Command]:
    """The option of one key of `config.Settings`; its value stays text, or None if not given, for `config.settings`."""
    default = config.default(key)
    text = config.description(key)
    shown = f"{text[0].upper()}{text[1:]}." + (
        "" if default is None or isinstance(default, bool) else f"  [default: {default}]"
    )
    metavar = "INTEGER" if isinstance(config.sample(key), int) else "TEXT"
    if isinstance(default, bool):
        flag = config.flag(key)
        return click.option(f"{flag}/--no-{key}" if default else flag, key, is_flag=True, default=None, help=shown)
    return click.option(config.flag(key), key, default=None, metavar=metavar, help=shown)


def coordinator_address(command: Command) -> Command:
    """The options `--url` and `--api-key`."""
    url = click.option(
        "--url",
        default="http://127.0.0.1:8000",
        envvar="STAGELINE_URL",
        show_default=True,
        help="Where the coordinator is; also STAGELINE_URL.",
    )
    api_key = click.option(
        "--api-key", envvar="STAGELINE_API_KEY", metavar="TEXT", help="The coordinator's key; also STAGELINE_API_KEY."
    )
    return url(api_key(command))


def _finite(_: click.Context, option: click.Parameter, value: float | None) -> float | None:
    if value is not None and not math.isfinite(value):  # JSON has neither nan nor inf
        raise click.BadParameter(f"{value} is not a finite number", param=option)
    return value


def answer(command: Command) -> Command:
    """The options `--max-tokens`, `--temperature` and `--seed`; the coordinator checks their values."""
    max_tokens = click.option("--max-tokens", type=int, help="Longest answer, in tokens.")
    temperature = click.option(
        "--temperature", type=float, callback=_finite, help="0 always takes the likeliest token."
    )
    seed = click.option("--seed", type=int, help="The same seed gives the same answer.")
    return max_tokens(temperature(seed(command)))
