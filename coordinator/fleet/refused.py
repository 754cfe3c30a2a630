"""Hosts that cannot take part, each with the reason and the fix."""

from collections.abc import Mapping

from worker.errors import ConfigError


class HostsError(ConfigError):
    """`problems` are by the host's name."""

    def __init__(self, problems: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"host {name}: {problem}" for name, problem in problems.items()), param="hosts")
        self.problems = dict(problems)
