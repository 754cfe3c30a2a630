"""A Mac's checks, by what its commands print: pmset's texts are from public reports of other projects, the rest follows
the documentation named in each module. None of it was run on a Mac."""

import pytest

from worker.checkup.local_network import ALLOW, local_network
from worker.checkup.sleep import NEVER_MACOS, sleep_macos
from worker.checkup.wired_limit import highest_mebibytes, wired_limit

GIB = 2**30

# github.com/5T33Z0/Gigabyte-Z490-Vision-G-Hackintosh-OpenCore/issues/31
AWAKE_FOR_NOW = """\
System-wide power settings:
Currently in use:
 standby              1
 Sleep On Power Button 1
 womp                 1
 hibernatefile        /var/vm/sleepimage
 proximitywake        1
 powernap             1
 networkoversleep     0
 disksleep            10
 standbydelayhigh     86400
 sleep                1 (sleep prevented by sharingd, coreaudiod)
 hibernatemode        3
 ttyskeepawake        1
 displaysleep         20
 tcpkeepalive         1
"""
# github.com/tylernguyen/x1c6-hackintosh/issues/97
ASLEEP_SOON = """\
System-wide power settings:
Currently in use:
 standbydelaylow      10800
 standby              1
 hibernatefile        /var/vm/sleepimage
 disksleep            10
 sleep                1
 hibernatemode        3
 displaysleep         2
"""
# github.com/drduh/macOS-Security-and-Privacy-Guide/issues/124
NEVER = """\
System-wide power settings:
 DestroyFVKeyOnStandby\t\t1
Active Profiles:
Battery Power\t\t-1
AC Power\t\t-1*
Currently in use:
 standby              0
 disksleep            0
 sleep                0 (sleep prevented by backupd, backupd, AddressBookSourceSync)
 displaysleep         10
"""


@pytest.mark.parametrize(
    ("pmset", "level", "found"),
    [
        (AWAKE_FOR_NOW, "warn", "after 1 min without input (sleep prevented by sharingd, coreaudiod)"),
        (ASLEEP_SOON, "warn", "after 1 min without input"),
        (NEVER, "ok", "never (pmset: sleep 0)"),
        ("", "ok", "pmset does not say when this machine sleeps"),
    ],
    ids=["prevented for now", "one minute", "never", "no pmset"],
)
def test_sleep(pmset, level, found):
    finding = sleep_macos(pmset)
    assert (finding.check, finding.level, finding.found) == ("sleep", level, found)
    assert finding.fix == (NEVER_MACOS if level == "warn" else "")


@pytest.mark.parametrize(
    ("gib", "mebibytes"), [(16, 8192), (64, 57344), (128, 114688), (512, 458752), (8, 0)], ids=lambda value: str(value)
)
def test_the_system_keeps_an_eighth_and_no_less_than_8_gib(gib, mebibytes):
    assert highest_mebibytes(gib * GIB) == mebibytes


@pytest.mark.parametrize(
    ("gib", "recommended", "sysctl", "level", "found", "fix"),
    [
        (
            512,
            384 * GIB,
            "iogpu.wired_limit_mb: 0",
            "ok",
            "384.0 of 512 GiB for the GPU (macOS's own choice), 448.0 GiB possible",
            "sudo sysctl iogpu.wired_limit_mb=458752",
        ),
        (64, 56 * GIB, "iogpu.wired_limit_mb: 57344", "ok", "56.0 of 64 GiB for the GPU (set by hand)", ""),
        (
            64,
            63 * GIB,
            "iogpu.wired_limit_mb: 64512",
            "warn",
            "63.0 of 64 GiB for the GPU (set by hand): leaves 1.0 GiB to the system",
            "sudo sysctl iogpu.wired_limit_mb=57344",
        ),
        (16, 11 * GIB, "iogpu.wired_limit_mb: 0", "ok", "11.0 of 16 GiB for the GPU (macOS's own choice)", ""),
        (64, 0, "iogpu.wired_limit_mb: 0", "ok", "64 GiB, macOS chooses", ""),
        (64, 48 * GIB, "", "ok", "this macOS has no iogpu.wired_limit_mb", ""),
    ],
    ids=["default", "raised", "too far", "small machine", "without MLX", "no such key"],
)
def test_wired_limit(gib, recommended, sysctl, level, found, fix):
    finding = wired_limit(gib * GIB, recommended, sysctl)
    assert (finding.check, finding.level, finding.found, finding.fix) == ("wired_limit", level, found, fix)


@pytest.mark.parametrize(
    ("attempts", "level", "found"),
    [
        ({"192.168.10.7": 65}, "fail", "macOS lets nothing through to 192.168.10.7 (errno 65)"),
        ({"10.0.0.1": 0, "10.0.0.2": 65}, "fail", "macOS lets nothing through to 10.0.0.2 (errno 65)"),
        ({"192.168.10.7": 61, "10.0.0.2": 60}, "ok", "macOS lets this program reach 192.168.10.7, 10.0.0.2"),
        ({"93.184.216.34": 65}, "ok", "macOS lets this program reach 93.184.216.34"),
        ({}, "ok", "not tried: no other host was named"),
    ],
    ids=["blocked", "one blocked", "refused or silent", "not of the local network", "nobody"],
)
def test_local_network(attempts, level, found):
    finding = local_network(attempts)
    assert (finding.check, finding.level, finding.found) == ("local_network", level, found)
    assert finding.fix == (ALLOW if level == "fail" else "")
