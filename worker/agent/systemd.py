"""systemd's unit: the user's, or the machine's. What the agent says goes to the journal.

Directives: systemd.unit(5), systemd.service(5), systemd.exec(5); the quoting is that of systemd.syntax(7).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from worker.agent.unit import AGAIN_SECONDS, LEAVE_SECONDS, Place, Unit

NAME = "stageline-agent.service"
DESCRIPTORS = 65536


def path(place: Place) -> Path:
    """Where the file belongs."""
    return _directory(place) / NAME


def links(place: Place) -> tuple[Path, ...]:
    """What `systemctl enable` makes."""
    return (_directory(place) / f"{_target(place)}.wants" / NAME,)


def unit(name: str, command: Sequence[str], environment: Mapping[str, str], place: Place) -> Unit:
    """The unit file."""
    # a user's unit cannot wait for the machine's network; the agent tries again anyway
    online = ("Wants=network-online.target", "After=network-online.target") if place.system else ()
    lines = (
        "[Unit]",
        f"Description=Stageline agent {name}",
        *online,
        "StartLimitIntervalSec=0",
        "",
        "[Service]",
        f"ExecStart={' '.join(map(_quoted, command))}",
        *(f"Environment={_quoted(f'{key}={value}', command=False)}" for key, value in environment.items()),
        *((f"User={place.user}",) if place.system else ()),
        "Restart=on-failure",
        f"RestartSec={AGAIN_SECONDS}",
        "# the agent ends its workers in order; what is left after that is killed",
        "KillMode=mixed",
        f"TimeoutStopSec={LEAVE_SECONDS}",
        f"LimitNOFILE={DESCRIPTORS}",
        "NoNewPrivileges=true",
        "",
        "[Install]",
        f"WantedBy={_target(place)}",
        "",
    )
    control = _control(place)
    stays = "" if place.system else f"\nto have it run while you are not logged in: loginctl enable-linger {place.user}"
    return Unit(
        path=path(place),
        text="\n".join(lines),
        log=None,
        start=f"now run: {control} daemon-reload && {control} enable {NAME} && {control} restart {NAME}{stays}\n"
        f"its log: journalctl {'' if place.system else '--user '}-u {NAME}",
    )


def stop(place: Place) -> str:
    """What to run after the file is gone."""
    control = _control(place)
    return f"if it runs, end it: {control} stop {NAME}; {control} daemon-reload"


def _directory(place: Place) -> Path:
    return Path("/etc/systemd/system") if place.system else place.home / ".config/systemd/user"


def _target(place: Place) -> str:
    return "multi-user.target" if place.system else "default.target"


def _control(place: Place) -> str:
    return "sudo systemctl" if place.system else "systemctl --user"


def _quoted(word: str, *, command: bool = True) -> str:
    """A word as systemd reads it back: % begins a specifier, and in a command $ begins a variable."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    word = word.replace("$", "$$") if command else word
    return f'"{word}"' if not word or any(letter in word for letter in " \t\\\"';") else word
