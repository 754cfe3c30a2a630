"""launchd's property list: a LaunchAgent in the user's session, or a LaunchDaemon from the machine's start on.

Keys: `man launchd.plist`.
"""

import plistlib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from worker.agent.unit import AGAIN_SECONDS, LEAVE_SECONDS, Place, Unit

LABEL = "stageline.agent"
DESCRIPTORS = 8192  # launchd gives 256


def path(place: Place) -> Path:
    """Where the file belongs."""
    parent = Path("/Library/LaunchDaemons") if place.system else place.home / "Library/LaunchAgents"
    return parent / f"{LABEL}.plist"


def links(place: Place) -> tuple[Path, ...]:
    """launchd makes none."""
    del place
    return ()


def unit(name: str, command: Sequence[str], environment: Mapping[str, str], place: Place) -> Unit:
    """The property list."""
    del name
    log = place.home / "Library/Logs/stageline-agent.log"
    entries: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": list(command),
        "EnvironmentVariables": dict(environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": AGAIN_SECONDS,
        "ExitTimeOut": LEAVE_SECONDS,
        "ProcessType": "Interactive",  # the others are slowed down
        "SoftResourceLimits": {"NumberOfFiles": DESCRIPTORS},
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
        **({"UserName": place.user} if place.system else {}),
    }
    where = path(place)
    domain, sudo = _domain(place)
    return Unit(
        path=where,
        text=plistlib.dumps(entries, sort_keys=False).decode(),
        log=log,
        start=f"now run (bootout returns before the job is gone, and until then bootstrap fails with error 5): "
        f"{_gone(place)}; {sudo}launchctl bootstrap {domain} {shlex.quote(str(where))}\nits log: {log}",
    )


def stop(place: Place) -> str:
    """What to run after the file is gone."""
    domain, sudo = _domain(place)
    return f"if it runs, end it: {sudo}launchctl bootout {domain}/{LABEL}"


def _gone(place: Place) -> str:
    """Commands that end the job if it is loaded, and wait until it is gone."""
    domain, sudo = _domain(place)
    job = f"{domain}/{LABEL}"
    waiting = f"while {sudo}launchctl print {job} >/dev/null 2>&1; do sleep 1; done"
    return f"{sudo}launchctl bootout {job} 2>/dev/null; {waiting}"


def _domain(place: Place) -> tuple[str, str]:
    return ("system", "sudo ") if place.system else (f"gui/{place.number}", "")
