"""What `stageline doctor` found; `--json` prints it as it is."""

import msgspec

from worker.agent.messages import Device, Finding, Versions


class HostFindings(msgspec.Struct, frozen=True, kw_only=True):
    """One machine by its name in the hostfile, "" for the one that the command runs on."""

    name: str
    platform: str
    versions: Versions
    devices: tuple[Device, ...]
    findings: tuple[Finding, ...]


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """Median seconds from `sender` to `receiver` and back, `nbytes` each way; `problem` says why there are none."""

    sender: str
    receiver: str
    seconds: float
    nbytes: int
    problem: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything; `between` is about several hosts together. `failed`: whether any finding is a failure."""

    failed: bool
    hosts: tuple[HostFindings, ...]
    between: tuple[Finding, ...] = ()
    round_trips: tuple[Trip, ...] = ()


def report(
    hosts: tuple[HostFindings, ...], between: tuple[Finding, ...] = (), round_trips: tuple[Trip, ...] = ()
) -> Report:
    """All of it."""
    findings = (*between, *(finding for host in hosts for finding in host.findings))
    failed = any(finding.level == "fail" for finding in findings)
    return Report(failed=failed, hosts=hosts, between=between, round_trips=round_trips)
