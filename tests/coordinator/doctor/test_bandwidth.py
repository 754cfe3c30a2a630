"""Measured bandwidth beside the table."""

import pytest

from coordinator.doctor.bandwidth import bandwidth
from worker.agent.messages import Device


@pytest.mark.parametrize(
    ("device", "level", "found"),
    [
        (
            Device(chip="H200", memory_bytes=1, card=1, bandwidth=4.25e12),
            "ok",
            "card 1, H200: 4250 GB/s, 89% of what its maker states (88% expected)",
        ),
        (
            Device(chip="M3 Ultra", memory_bytes=1, bandwidth=400e9),
            "warn",
            "M3 Ultra: 400 GB/s, 49% of what its maker states (84% expected)",
        ),
        (Device(chip="x86_64", memory_bytes=1, bandwidth=12.34e9), "ok", "x86_64: 12.3 GB/s"),
        (Device(chip="M3 Ultra", memory_bytes=1), "ok", "M3 Ultra: could not be measured"),
    ],
    ids=["as expected", "half of it", "unknown chip", "not measured"],
)
def test_bandwidth(device, level, found):
    finding = bandwidth([device])
    assert (finding.level, finding.found) == (level, found)
    assert ("lowpowermode" in finding.fix) == (level == "warn")
