"""The command `stageline`: finds the subcommand, and turns every failure into one line and an exit status.

A subcommand's module is imported only when it runs, so `stageline --help` costs neither mlx nor transformers.
Exit status: 0 done, 1 a failure of ours, 2 the user's mistake, 130 interrupted.
"""

import importlib
import sys
from collections.abc import Sequence
from typing import NamedTuple

import click

from worker.errors import StagelineError

INTERRUPTED = 130


class Entry(NamedTuple):
    """Where a subcommand's `click.Command` is, "module:attribute", and its line in `--help`."""

    target: str
    help: str


COMMANDS = {
    "up": Entry("coordinator.commands.up:up", "Start a cluster on this machine and serve MODEL over HTTP."),
    "generate": Entry("coordinator.commands.generate:generate", "Answer one prompt, streamed to stdout."),
    "chat": Entry("coordinator.commands.chat:chat", "Talk with the model."),
    "status": Entry("coordinator.commands.status:status", "Show the stages of a running cluster."),
    "bench": Entry("coordinator.commands.bench:bench", "Measure, against mlx-lm in the same run."),
    "worker": Entry("worker.cli:main", "Serve one stage of a cluster, under a coordinator."),
}


class LazyGroup(click.Group):
    """A group whose subcommands are named by `COMMANDS` and imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The imported subcommand, or None for an unknown name."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry.target.split(":")
        return getattr(importlib.import_module(module), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes the list from the table alone; click's own would import every subcommand."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="stageline", message="stageline %(version)s")
def root() -> None:
    """Serve NVIDIA's Nemotron-H models with MLX, cut into stages over one or more machines."""


def run(arguments: Sequence[str]) -> int:
    """Runs one command line and returns the exit status; failures are printed on stderr, one line each."""
    try:
        result = root.main(list(arguments), prog_name="stageline", standalone_mode=False)
    except StagelineError as error:
        click.echo(f"stageline: error: {error.message}", err=True)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # click's name for KeyboardInterrupt
        return INTERRUPTED
    return result if isinstance(result, int) else 0


def main() -> None:
    """The entry point of the installed command."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
