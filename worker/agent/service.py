"""The agent as a service of the system: launchd's on macOS, systemd's on Linux."""

import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from worker.agent import launchd, systemd
from worker.agent.settings import AgentSettings, check_keys
from worker.agent.unit import Place, Unit
from worker.errors import ConfigError

# where models are, and the code if it is not installed; a service does not get these by itself
KEPT = ("HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "PYTHONPATH", "XDG_CACHE_HOME", "XDG_STATE_HOME")
CHECK_SECONDS = 60.0


def unit(settings: AgentSettings, place: Place) -> Unit:
    """The file for this place. Variables of whoever installs it are for nobody else."""
    command = [sys.executable, "-P", "-m", "worker.agent.cli", *settings.words]
    environment = {name: os.environ[name] for name in KEPT if name in os.environ} if is_own(place) else {}
    return render(settings.name, command, environment, place)


def is_own(place: Place) -> bool:
    """Whether who asks is who runs the service."""
    return place.user == _me()


def keys_directory(place: Place) -> Path | None:
    """Where another user's keys are by default; None for one's own, which variables may name."""
    return None if is_own(place) else place.home / ".config/stageline/keys"


def check_keys_of(settings: AgentSettings, place: Place) -> None:
    """Raises ConfigError, with the fix, if who runs the service has no keys there, or cannot read them."""
    try:
        check_keys(settings)
    except ConfigError as error:
        whose = "" if is_own(place) else f" (as {place.user}, who runs the service: `sudo -u {place.user} -H ...`)"
        raise ConfigError(f"{error.message}{whose}", param="keys") from error
    if settings.keys is None:
        return
    for path in (settings.keys, settings.keys / "secret"):
        if path.stat().st_uid != place.number:
            raise ConfigError(
                f"{path}: is not {place.user}'s, who runs the service and could not read it: "
                f"`sudo chown -R {place.user} {settings.keys}`, or --keys with that user's own",
                param="keys",
            )


def render(name: str, command: list[str], environment: Mapping[str, str], place: Place) -> Unit:
    """The file that runs `command` there."""
    writer = launchd if place.is_mac else systemd
    return writer.unit(name, command, environment, place)


def write(unit: Unit) -> str:
    """Write the file; returns what was done. Raises ConfigError if it cannot be written."""
    try:
        if unit.path.exists() and unit.path.read_text(encoding="utf-8") == unit.text:
            return f"{unit.path} is as it should be"
        known = unit.path.exists()
        for directory in (unit.path.parent, *([unit.log.parent] if unit.log else [])):
            directory.mkdir(parents=True, exist_ok=True)
        new = unit.path.with_suffix(".new")
        new.write_text(unit.text, encoding="utf-8")
        new.replace(unit.path)
    except OSError as error:
        raise ConfigError(f"{unit.path}: cannot be written: {error.strerror}; {_fix(unit.path)}") from error
    return f"{'replaced' if known else 'wrote'} {unit.path}"


def remove(system_name: str, *, system: bool) -> str:
    """Remove the file; returns what was done and what to run. Raises ConfigError if it cannot be removed."""
    place = place_of(system_name, system=system, user=None)
    writer = launchd if place.is_mac else systemd
    path = writer.path(place)
    try:
        if not path.exists():
            return f"{path} is not there: nothing to remove"
        path.unlink()
        for link in writer.links(place):
            link.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be removed: {error.strerror}; {_fix(path)}") from error
    return f"removed {path}\n{writer.stop(place)}"


def check_importable(place: Place) -> None:
    """Raises ConfigError if the service would not find this code: it starts outside of this directory, and if another
    user runs it, as that user and without the variables of whoever installs it."""
    command = [sys.executable, "-P", "-c", "import worker.agent.cli"]
    environment = dict(os.environ)
    user = group = None
    if not is_own(place):
        environment = {"PATH": os.defpath, "HOME": str(place.home)}
        if os.getuid() == 0:
            user, group = place.number, pwd.getpwnam(place.user).pw_gid
    try:
        done = subprocess.run(
            command,
            cwd="/",
            env=environment,
            user=user,
            group=group,
            extra_groups=None if user is None else [],
            capture_output=True,
            timeout=CHECK_SECONDS,
            check=False,
        )
        is_there = done.returncode == 0
    except (OSError, subprocess.TimeoutExpired):  # as of an interpreter in another user's home
        is_there = False
    if not is_there:
        raise ConfigError(
            f"{sys.executable} has no stageline that {place.user} can run: install it with pip, into an environment "
            "that this user can read, then run this again from there"
        )


def place_of(system_name: str, *, system: bool, user: str | None) -> Place:
    """Whose service it is, on the operating system `system_name`. Raises ConfigError if that has no service that we
    know, or no such user."""
    if system_name not in ("Darwin", "Linux"):
        raise ConfigError(
            f"{system_name} has neither launchd nor systemd: let its own service manager run `stageline agent run "
            "--stay ...`"
        )
    if user is not None and not system:
        raise ConfigError("--user goes with --system: without it the service is yours", param="user")
    name = user or os.environ.get("SUDO_USER") or _me()
    try:
        entry = pwd.getpwnam(name)
    except KeyError as error:
        raise ConfigError(f"--user {name!r}: there is no such user here", param="user") from error
    return Place(is_mac=system_name == "Darwin", system=system, user=name, number=entry.pw_uid, home=Path(entry.pw_dir))


def _me() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _fix(path: Path) -> str:
    system = path.is_relative_to("/etc") or path.is_relative_to("/Library")
    return "run it with sudo" if system else "make it writable"
