"""Whether the machine falls asleep while it serves.

macOS: `sleep` in `pmset -g` is minutes until the machine sleeps, 0 is never (pmset(1)). Linux: systemd suspends only
through sleep.target (systemd.special(7)), logind asks for it after `IdleAction` (logind.conf(5)), and GNOME after
`sleep-inactive-ac-type`.
"""

import re

from worker.agent.messages import Finding
from worker.checkup.check import Check
from worker.hardware import said

NEVER_MACOS = "sudo pmset -a sleep 0"
NEVER_SYSTEMD = "sudo systemctl mask sleep.target suspend.target hibernate.target hybrid-sleep.target"
CHECK = Check(
    "sleep",
    "macOS: the minutes after which the machine sleeps (`pmset -g`). Linux: whether systemd-logind or GNOME suspend an "
    "idle machine. Warns if it would sleep by itself.",
    (NEVER_MACOS, NEVER_SYSTEMD),
)
GNOME = "org.gnome.settings-daemon.plugins.power"
LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager", "IdleAction")


def read_pmset() -> str:
    """The settings in use, "" if they cannot be read."""
    return said("pmset", "-g")


def read_systemd() -> tuple[str, str, str]:
    """What systemd loaded as sleep.target, logind's IdleAction, and what GNOME does on mains; "" for what is not
    there, or does not run."""
    has_desktop = said("systemctl", "is-active", "display-manager") == "active"
    return (
        said("systemctl", "show", "sleep.target", "--property=LoadState", "--value"),
        said("busctl", "get-property", *LOGIND),
        said("gsettings", "get", GNOME, "sleep-inactive-ac-type") if has_desktop else "",
    )


def sleep_macos(pmset: str) -> Finding:
    """`pmset` has a line as " sleep                1 (sleep prevented by powerd)"."""
    match = re.search(r"^\s*sleep\s+(\d+)\s*(\(.*\))?\s*$", pmset, re.MULTILINE)
    if match is None:
        return CHECK.ok("pmset does not say when this machine sleeps")
    minutes = int(match[1])
    if minutes == 0:
        return CHECK.ok("never (pmset: sleep 0)")
    now = f" {match[2]}" if match[2] else ""
    return CHECK.warn(f"after {minutes} min without input{now}", NEVER_MACOS)


def sleep_linux(target: str, idle_action: str, gnome: str) -> Finding:
    """`target` is "masked" or "loaded"; `idle_action` as busctl says it, `s "ignore"`; `gnome` as gsettings does,
    "'suspend'"."""
    if target == "masked":
        return CHECK.ok("never (sleep.target is masked)")
    action = re.search(r'"(.*)"', idle_action)
    if action and action[1] in ("suspend", "hibernate", "hybrid-sleep", "suspend-then-hibernate"):
        return CHECK.warn(f"systemd-logind: {action[1]} when idle", NEVER_SYSTEMD)
    if gnome.strip("'\n ") in ("suspend", "hibernate"):
        return CHECK.warn("GNOME suspends this machine when nobody uses it", NEVER_SYSTEMD)
    read = [name for name, value in (("logind", action), ("GNOME", gnome)) if value]
    return CHECK.ok(f"not by itself ({', '.join(read)})" if read else "no power management was found")
