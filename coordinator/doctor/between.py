"""What can only be seen by comparing hosts. Pure: their reports in, findings out."""

from collections.abc import Iterable, Mapping, Sequence

from coordinator.doctor.report import Trip
from coordinator.fleet.report import HostReport
from worker.agent.messages import Finding
from worker.checkup.check import Check

MOST_SKEW = 1.0  # seconds
SLOW_TRIP = 0.005  # a cable needs less, and Wi-Fi more (coordinator/plan/machines.toml)
KIB = 1024

INSTALL = "python -m pip install 'stageline=={stageline}' 'mlx=={mlx}'"
SAME_VERSIONS = Check(
    "same_versions",
    "Stageline, its protocol and MLX are the same on all hosts; other kernels round otherwise. Fails if not.",
    (INSTALL,),
)
COPY = "copy the model to {hosts} again, or name a hub id with a revision"
SAME_MODEL = Check("same_model", "All hosts find the model, and it is the same one by its hash. Fails if not.", (COPY,))
SET_CLOCK = "Linux: `sudo timedatectl set-ntp true`; macOS: `sudo sntp -sS time.apple.com`"
CLOCKS = Check(
    "clocks",
    "The hosts' clocks agree with this machine's, for logs that can be compared. Warns beyond 1 s.",
    (SET_CLOCK,),
)
CABLE = "use a cable: Thunderbolt or Ethernet addresses in the hostfile's `ips`"
CHECK_WAY = "check the firewall and the address of {receivers}, and on macOS what `local_network` says"
ROUND_TRIPS = Check(
    "round_trips",
    "Every host reaches every other one; median time there and back with a hidden state's 8 KiB. Fails if one cannot "
    "be reached, warns beyond 5 ms.",
    (CABLE, CHECK_WAY),
)
CHECKS = (SAME_VERSIONS, SAME_MODEL, CLOCKS, ROUND_TRIPS)


def between(reports: Sequence[HostReport], model: str, model_hash: str) -> tuple[Finding, ...]:
    """Findings about all hosts together; `model` is "" if none was named, `model_hash` is this machine's."""
    findings = [same_versions(reports)]
    if model:
        findings.append(same_model(reports, model, model_hash))
    findings.append(clocks(reports))
    if len(reports) > 1:
        findings.append(round_trips(trips(reports)))
    return tuple(findings)


def trips(reports: Iterable[HostReport]) -> tuple[Trip, ...]:
    """Every measured way, from each host to each other one."""
    return tuple(
        Trip(sender=report.name, receiver=trip.peer, seconds=trip.seconds, nbytes=trip.nbytes, problem=trip.problem)
        for report in reports
        for trip in report.surveyed.round_trips
    )


def same_versions(reports: Sequence[HostReport]) -> Finding:
    """Of Stageline, protocol and MLX; Python may differ."""
    having: dict[str, list[str]] = {}
    for report in reports:
        hail = report.hail
        told = f"stageline {hail.versions.stageline} (protocol {hail.protocol}), mlx {hail.versions.mlx}"
        having.setdefault(told, []).append(report.name)
    told = "; ".join(f"{', '.join(names)}: {what}" for what, names in having.items())
    if len(having) > 1:
        newest = max((report.hail for report in reports), key=lambda hail: hail.protocol).versions
        return SAME_VERSIONS.fail(told, INSTALL.format(stageline=newest.stageline, mlx=newest.mlx.split()[0]))
    return SAME_VERSIONS.ok(told)


def same_model(reports: Sequence[HostReport], model: str, model_hash: str) -> Finding:
    """Of those that found it, and of this machine."""
    problems = {report.name: report.surveyed.problem for report in reports if not report.surveyed.model_hash}
    others = {report.name: report.surveyed.model_hash for report in reports if report.surveyed.model_hash}
    expected = model_hash or next(iter(others.values()), "")
    differing = {name: other for name, other in others.items() if other != expected}
    if not problems and not differing:
        return SAME_MODEL.ok(f"{model}: {expected[:16]} on {', '.join(others)}")
    told = [f"{name}: {problem or 'not found'}" for name, problem in problems.items()]
    told += [f"{name} has {other[:16]}, expected {expected[:16]}" for name, other in differing.items()]
    return SAME_MODEL.fail(f"{model}: {'; '.join(told)}", COPY.format(hosts=", ".join([*problems, *differing])))


def clocks(reports: Sequence[HostReport]) -> Finding:
    """How far each host's clock is ahead of this machine's."""
    skews: Mapping[str, float] = {report.name: report.clock_skew for report in reports}
    told = ", ".join(f"{name} {skew:+.2f} s" for name, skew in skews.items())
    if any(abs(skew) > MOST_SKEW for skew in skews.values()):
        return CLOCKS.warn(told, SET_CLOCK)
    return CLOCKS.ok(told)


def round_trips(ways: Sequence[Trip]) -> Finding:
    """The slowest way, or those that lead nowhere."""
    lost = [way for way in ways if way.problem]
    if lost:
        told = "; ".join(f"{way.sender} to {way.receiver}: {way.problem}" for way in lost)
        return ROUND_TRIPS.fail(
            told, CHECK_WAY.format(receivers=", ".join(dict.fromkeys(way.receiver for way in lost)))
        )
    if not ways:
        return ROUND_TRIPS.ok("none was measured")
    slowest = max(ways, key=lambda way: way.seconds)
    told = (
        f"at most {slowest.seconds * 1e3:.2f} ms ({slowest.sender} to {slowest.receiver}) with "
        f"{slowest.nbytes / KIB:g} KiB each way"
    )
    if slowest.seconds > SLOW_TRIP:
        return ROUND_TRIPS.warn(told, CABLE)
    return ROUND_TRIPS.ok(told)
