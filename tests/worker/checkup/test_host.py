"""All checks of a host at once: of this one, and of a Mac by what its commands would print."""

import os
import platform
import re
import socket

import pytest

from worker.checkup import checkup, host, local_network, sleep

PMSET = "System-wide power settings:\nCurrently in use:\n sleep                1 (sleep prevented by powerd)\n"
SAYS = {("sysctl", "iogpu.wired_limit_mb"): "iogpu.wired_limit_mb: 0", ("pmset", "-g"): PMSET}


def names(findings):
    return [finding.check for finding in findings]


def test_this_machine(tmp_path):
    findings = checkup(keys=None, runtime=tmp_path)
    assert {"versions", "backend", "environment", "memory", "sleep", "descriptors", "disk"} <= set(names(findings))
    assert "keys" not in names(findings)
    assert all(finding.found and (finding.level == "ok" or finding.fix) for finding in findings)
    assert [finding for finding in findings if finding.level == "fail"] == []


def test_keys_are_looked_at_where_they_are_used(tmp_path):
    (finding,) = [each for each in checkup(keys=tmp_path / "none", runtime=tmp_path) if each.check == "keys"]
    assert (finding.level, finding.fix) == ("fail", "stageline keys new")


@pytest.mark.parametrize("blocked", [False, True], ids=["allowed", "blocked"])
def test_a_mac(tmp_path, monkeypatch, blocked):
    def said(*command):
        return SAYS.get(command, "")

    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    monkeypatch.setattr(host, "said", said)
    monkeypatch.setattr(sleep, "said", said)
    monkeypatch.setitem(os.environ, "MLX_METAL_FAST_SYNCH", "1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = listener.getsockname()
        if blocked:
            monkeypatch.setattr(local_network, "connect", lambda *_: local_network.EHOSTUNREACH_MACOS)
        findings = {each.check: each for each in checkup(keys=None, runtime=tmp_path, peers=[peer])}
    assert findings["environment"].level == "warn"
    assert re.search(r"\d+ GiB, macOS chooses", findings["wired_limit"].found)  # MLX here knows of no Metal
    assert findings["sleep"].found == "after 1 min without input (sleep prevented by powerd)"
    assert findings["local_network"].level == ("fail" if blocked else "ok")
    assert "gpu_memory" not in findings
