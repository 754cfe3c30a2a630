"""`stageline agent run`: the agent of one host. mlx.launch, launchd, systemd or Kubernetes start it."""

import asyncio
import contextlib
import logging
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from worker.agent.agent import Agent
from worker.agent.launch_files import remove_launch_files
from worker.agent.settings import AgentSettings, agent_settings, check_keys
from worker.errors import StagelineError

LOOK_SECONDS = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Command = TypeVar("Command", bound=Callable[..., Any])


def identity(command: Command) -> Command:
    """The options that say which host this is and where the coordinator is, as `agent_settings` takes them."""
    options = (
        click.option("--coordinator", required=True, metavar="tcp://IP:PORT", help="The coordinator's control socket."),
        click.option("--name", required=True, help="This host's name in the hostfile."),
        click.option("--address", metavar="IP", help="This host's address; otherwise the one towards the coordinator."),
        click.option("--keys", type=click.Path(path_type=Path), help="Directory of this host's keys."),
        click.option("--insecure", is_flag=True, help="No keys: anybody on the network may take part."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("run")
@identity
@click.option("--stay", is_flag=True, help="Go on when the coordinator is gone or sends the agent away.")
def main(**options: Any) -> None:
    """Serve a coordinator on this host until told to leave.

    Starts and ends this host's workers. Without --stay it leaves with the process that holds its standard input.
    """
    remove_launch_files(os.environ)
    settings = agent_settings(**options)
    check_keys(settings)
    logging.basicConfig(
        level=logging.INFO, format=f"%(asctime)s %(levelname)s agent {settings.name}: %(message)s", stream=sys.stderr
    )
    asyncio.run(_run(settings))


async def _run(settings: AgentSettings) -> None:
    loop = asyncio.get_running_loop()
    leave: asyncio.Future[str] = loop.create_future()

    def signalled(number: signal.Signals) -> None:
        for each in heard:  # the next one ends the process at once, and its workers with it
            loop.remove_signal_handler(each)
        if not leave.done():
            leave.set_result(number.name)

    # all but those that were ignored on entry, as SIGHUP is under nohup
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heard:
        loop.add_signal_handler(number, signalled, number)
    if not settings.stay and "MLX_RANK" in os.environ:
        watch = asyncio.create_task(_watch_launcher(leave))
        watch.add_done_callback(lambda task: task.cancelled() or task.result())
    elif not settings.stay and _is_held():
        closed = lambda: leave.done() or leave.set_result("standard input is closed")  # noqa: E731
        threading.Thread(target=_await_end, args=(loop, closed), name="stdin", daemon=True).start()
    await Agent(settings, leave).run()


async def _watch_launcher(leave: "asyncio.Future[str]") -> None:
    """Leaves with mlx.launch, or with the ssh session that it made. Not by standard input: mlx.launch takes a core for
    itself as long as anybody holds the other end of that."""
    launcher = os.getppid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    while os.getppid() == launcher:  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(LOOK_SECONDS)
    if not leave.done():
        leave.set_result("what started it is gone")


def _is_held() -> bool:
    """Whether standard input is a pipe, which ends with whoever holds its other end."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _await_end(loop: asyncio.AbstractEventLoop, closed: Callable[[], object]) -> None:
    with contextlib.suppress(OSError):  # a terminal that hung up
        while os.read(0, 4096):
            pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: the agent has left
        loop.call_soon_threadsafe(closed)


def _serve() -> int:
    """The exit status of a command line without `stageline`."""
    try:
        main.main(standalone_mode=False)
    except StagelineError as error:
        click.echo(f"stageline: error: {error.message}", err=True)
        return error.exit_status
    except click.ClickException as error:
        error.show()
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(_serve())
