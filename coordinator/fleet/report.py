"""What a host has told of itself."""

import msgspec

from coordinator.fleet.member import Member
from worker.agent.messages import Hail, Surveyed


class HostReport(msgspec.Struct, frozen=True):
    """A host's own words; `clock_skew` is by how many seconds its clock is ahead of the one here."""

    name: str
    hail: Hail
    surveyed: Surveyed
    clock_skew: float


def reports(members: dict[str, Member]) -> tuple[HostReport, ...]:
    """Those of the hosts that have been surveyed."""
    return tuple(
        HostReport(name, member.hail, member.surveyed, member.clock_skew)
        for name, member in members.items()
        if member.hail is not None and member.surveyed is not None
    )
