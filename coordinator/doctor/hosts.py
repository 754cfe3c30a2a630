"""The hosts of a hostfile as `stageline doctor` shows them. Pure."""

from coordinator.doctor.bandwidth import bandwidth
from coordinator.doctor.report import HostFindings
from coordinator.fleet.report import HostReport
from worker.checkup.check import Check

AGAIN = "do what it says and run this command again; it was not looked at"
CHECK = Check(
    "hosts",
    "ssh gets to every host of the hostfile, Python has the same Stageline there, and the host's agent answers. Only "
    "with --hosts. Fails with the host's name and the fix.",
    (AGAIN,),
)


def host_findings(report: HostReport, *, measured: bool) -> HostFindings:
    """What the host's agent found, and its bandwidth if that was `measured`."""
    findings = report.surveyed.findings
    if measured:
        findings = (*findings, bandwidth(report.surveyed.devices))
    return HostFindings(
        name=report.name,
        platform=report.hail.platform,
        versions=report.hail.versions,
        devices=report.surveyed.devices,
        findings=findings,
    )
