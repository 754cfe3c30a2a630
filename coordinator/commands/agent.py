"""`stageline agent`: what runs on every host of a cluster, and how the system keeps it running."""

import platform
from typing import Any

import click

from worker.agent import service
from worker.agent.cli import identity, main
from worker.agent.settings import agent_settings


@click.group()
def agent() -> None:
    """Serve a cluster on this host, by hand or as a service."""


agent.add_command(main)


@agent.command()
@identity
@click.option("--system", is_flag=True, help="For the whole machine, from its start on; not for this user alone.")
@click.option("--user", help="With --system: who runs it; otherwise whoever installs it.")
@click.option("--print", "only_print", is_flag=True, help="Show the file; write nothing.")
def install(system: bool, user: str | None, only_print: bool, **options: Any) -> None:
    """Write the unit of systemd, or the property list of launchd, that keeps the agent running.

    It has absolute paths: install it again after the environment has moved. What to run next is printed. A unit that
    another user runs has that user's keys, and none of your variables.
    """
    place = service.place_of(platform.system(), system=system, user=user)
    settings = agent_settings(**options, stay=True, own_keys=service.keys_directory(place))
    unit = service.unit(settings, place)
    if only_print:
        click.echo(unit.text, nl=False)
        return
    service.check_keys_of(settings, place)
    service.check_importable(place)
    click.echo(service.write(unit))
    click.echo(unit.start)


@agent.command()
@click.option("--system", is_flag=True, help="The one for the whole machine.")
def uninstall(system: bool) -> None:
    """Remove the file that `install` wrote. What to run next is printed."""
    click.echo(service.remove(platform.system(), system=system))
