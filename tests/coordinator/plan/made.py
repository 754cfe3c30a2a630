"""Machines for tests."""

from typing import Any

from coordinator.plan.machine import Link, Machine

LINK = Link("made", 0.0003, 1e9)


def made_machine(name: str = "m", **changes: Any) -> Machine:
    """A machine of round figures: 1 TB/s read of 1.25 TB/s, no launches."""
    return Machine(
        **{
            "name": name,
            "chip": "made",
            "memory": 10**12,
            "usable": 10**12,
            "bandwidth": 1.25e12,
            "read": 1e12,
            "compute": 1e15,
            "layer_seconds": 0.0,
            "link": LINK,
            **changes,
        }
    )
