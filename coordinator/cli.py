"""The command `stageline`: finds the subcommand, and turns every failure into one line and an exit status.

A subcommand's module is imported only when it runs, so `stageline --help` costs neither mlx nor transformers.
Exit status: 0 done, 1 a failure of ours, 2 the user's mistake, 130 interrupted. With STAGELINE_DEBUG=1 a failure that
we did not foresee shows its traceback.
"""

import contextlib
import importlib
import os
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
    "up": Entry("coordinator.commands.up:up", "Start a cluster and serve MODEL over HTTP."),
    "generate": Entry("coordinator.commands.generate:generate", "Answer one prompt, streamed to stdout."),
    "chat": Entry("coordinator.commands.chat:chat", "Talk with the model."),
    "plan": Entry("coordinator.commands.plan:plan", "Split MODEL over machines and predict its speed."),
    "status": Entry("coordinator.commands.status:status", "Show the stages of a running cluster."),
    "bench": Entry("coordinator.commands.bench:bench", "Measure, against mlx-lm in the same run."),
    "doctor": Entry("coordinator.commands.doctor:doctor", "Look for what is wrong here or on the hosts, with fixes."),
    "keys": Entry("coordinator.commands.keys:keys", "Make and exchange the keys of a cluster's hosts."),
    "agent": Entry("coordinator.commands.agent:agent", "Serve a cluster on this host, by hand or as a service."),
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
        _say(error.message)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:  # click's name for KeyboardInterrupt
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if os.environ.get("STAGELINE_DEBUG"):
            raise
        _say(_in_one_line(error))
        return 1
    return result if isinstance(result, int) else 0


def main() -> None:
    """The entry point of the installed command."""
    sys.exit(_flushed(run(sys.argv[1:]) if _has_streams() else 1))


def _has_streams() -> bool:
    """Opens the null device for streams that were closed on entry: a socket must not get their descriptors.

    False, after a word, if standard output is among them.
    """
    has_output = sys.stdout is not None
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 - as long as the process
    if not has_output:
        _say("standard output is closed; send it to a file or to /dev/null")
    return has_output


def _flushed(status: int) -> int:
    """The exit status, once what was printed is written out; Python would try that again at exit, and not in a line."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
            if stream is sys.stdout and status == 0:
                _say(_in_one_line(error))
                status = 1
    return status


def _say(message: str) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"stageline: error: {message}", err=True)


def _in_one_line(error: Exception) -> str:
    """A failure that no code of ours foresaw."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else f"cannot read or write: {error.strerror}"
    return f"unexpected {type(error).__name__}: {' '.join(str(error).split())} (STAGELINE_DEBUG=1 shows where)"


if __name__ == "__main__":
    main()
