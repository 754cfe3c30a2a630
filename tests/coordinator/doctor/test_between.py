"""What is seen by comparing hosts, on made reports."""

import pytest

from coordinator.doctor.between import between, clocks, round_trips, same_model, same_versions, trips
from coordinator.fleet.report import HostReport
from worker.agent.messages import Device, Hail, RoundTrip, Surveyed, Versions

HASH = "5f" * 32
OTHER = "a0" * 32


def host(name, *, mlx="0.32.4", protocol=3, hash=HASH, problem="", skew=0.0, seconds=None, trip_problem=""):
    """A report; `seconds` maps each peer to its round trip."""
    hail = Hail(
        protocol=protocol,
        name=name,
        pid=1,
        address="10.0.0.1",
        echo="tcp://10.0.0.1:1",
        versions=Versions(stageline="0.1.0", python="3.12.4", mlx=mlx),
        platform="macOS",
        devices=(),
        clock=0.0,
    )
    surveyed = Surveyed(
        model_hash="" if problem else hash,
        problem=problem,
        round_trips=tuple(
            RoundTrip(peer=peer, seconds=value, nbytes=8192, problem=trip_problem)
            for peer, value in (seconds or {}).items()
        ),
        devices=(Device(chip="M3 Ultra", memory_bytes=512 << 30),),
    )
    return HostReport(name, hail, surveyed, skew)


def test_hosts_in_agreement():
    reports = [host("a", seconds={"b": 0.0004}), host("b", seconds={"a": 0.0005}, skew=-0.2)]
    findings = between(reports, "/models/super", HASH)
    assert [finding.check for finding in findings] == ["same_versions", "same_model", "clocks", "round_trips"]
    assert {finding.level for finding in findings} == {"ok"}
    assert findings[0].found == "a, b: stageline 0.1.0 (protocol 3), mlx 0.32.4"
    assert findings[1].found == "/models/super: 5f5f5f5f5f5f5f5f on a, b"
    assert findings[2].found == "a +0.00 s, b -0.20 s"
    assert findings[3].found == "at most 0.50 ms (b to a) with 8 KiB each way"


def test_one_host_has_no_way_to_another_and_no_model_was_named():
    assert [finding.check for finding in between([host("a")], "", "")] == ["same_versions", "clocks"]


def test_another_mlx_fails():
    finding = same_versions([host("a"), host("b"), host("c", mlx="0.31.0 mlx-cuda-13")])
    assert finding.level == "fail"
    assert finding.found == (
        "a, b: stageline 0.1.0 (protocol 3), mlx 0.32.4; c: stageline 0.1.0 (protocol 3), mlx 0.31.0 mlx-cuda-13"
    )
    assert finding.fix == "python -m pip install 'stageline==0.1.0' 'mlx==0.32.4'"


def test_another_protocol_fails_and_the_newest_is_advised():
    finding = same_versions([host("a", protocol=2, mlx="0.30.0"), host("b")])
    assert (finding.level, finding.fix) == ("fail", "python -m pip install 'stageline==0.1.0' 'mlx==0.32.4'")


@pytest.mark.parametrize(
    ("reports", "ours", "found", "hosts"),
    [
        ([host("a"), host("b", hash=OTHER)], HASH, "m: b has a0a0a0a0a0a0a0a0, expected 5f5f5f5f5f5f5f5f", "b"),
        ([host("a"), host("b", hash=OTHER)], "", "m: b has a0a0a0a0a0a0a0a0, expected 5f5f5f5f5f5f5f5f", "b"),
        ([host("a", problem="/m: no such directory"), host("b")], HASH, "m: a: /m: no such directory", "a"),
        (
            [host("a", problem="gone"), host("b", hash=OTHER)],
            HASH,
            "m: a: gone; b has a0a0a0a0a0a0a0a0, expected 5f5f5f5f5f5f5f5f",
            "a, b",
        ),
    ],
    ids=["other than here", "not told here", "missing", "both"],
)
def test_another_model_fails(reports, ours, found, hosts):
    finding = same_model(reports, "m", ours)
    assert (finding.level, finding.found) == ("fail", found)
    assert finding.fix.startswith(f"copy the model to {hosts} again")


@pytest.mark.parametrize(("skew", "level"), [(0.9, "ok"), (-1.1, "warn"), (3600.0, "warn")])
def test_a_clock_that_differs_warns(skew, level):
    finding = clocks([host("a"), host("b", skew=skew)])
    assert finding.level == level
    assert f"b {skew:+.2f} s" in finding.found
    assert ("timedatectl" in finding.fix) == (level == "warn")


def test_a_slow_way_warns():
    finding = round_trips(trips([host("a", seconds={"b": 0.0004}), host("b", seconds={"a": 0.012})]))
    assert (finding.level, finding.found) == ("warn", "at most 12.00 ms (b to a) with 8 KiB each way")
    assert "cable" in finding.fix


def test_ways_that_lead_nowhere_fail():
    reports = [host("a", seconds={"b": 0.0, "c": 0.0}, trip_problem="no answer within 5 s"), host("b")]
    finding = round_trips(trips(reports))
    assert (finding.level, finding.found) == ("fail", "a to b: no answer within 5 s; a to c: no answer within 5 s")
    assert "the address of b, c" in finding.fix
