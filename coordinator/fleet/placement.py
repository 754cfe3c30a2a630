"""Which stage goes to which host and card. Pure: what hosts reported in; machines for the planner and seats out."""

from collections.abc import Sequence

from coordinator.fleet.report import HostReport
from coordinator.plan.chips import link, machine
from coordinator.plan.machine import Link, Machine
from coordinator.plan.plan import Plan
from coordinator.plan.this_machine import known_chip, known_processor
from coordinator.seat import Seat
from worker.agent.messages import Device

RATE_OF = "10gbe"  # round trips of 8 KiB tell the latency of a link, not its rate


def machines(reports: Sequence[HostReport]) -> tuple[Machine, ...]:
    """One for each device of the hosts, by what is known of its chip and by what was measured."""
    return tuple(_machine(report, device) for report in reports for device in report.surveyed.devices)


def machine_name(report: HostReport, device: Device) -> str:
    """The host, and the card where it has several."""
    several = len(report.surveyed.devices) > 1
    return f"{report.name} card {device.card}" if several else report.name


def seats(plan: Plan, reports: Sequence[HostReport], keys: dict[str, str]) -> tuple[Seat, ...]:
    """Where each stage of the plan runs."""
    places = {
        machine_name(report, device): Seat(report.name, keys.get(report.name, ""), device.card)
        for report in reports
        for device in report.surveyed.devices
    }
    return tuple(places[stage.machine.name] for stage in plan.stages)


def _machine(report: HostReport, device: Device) -> Machine:
    chip, known = known_chip(device) or known_processor(device)
    name = machine_name(report, device)
    return machine(name, chip, known, where=f"host {report.name}", link=_link(report))


def _link(report: HostReport) -> Link:
    """The host's own: a hop counts the slower one of its two ends, so the fastest of its round trips says most."""
    trips = [trip.seconds for trip in report.surveyed.round_trips if not trip.problem]
    rate = link(RATE_OF)
    return Link("measured", min(trips) / 2, rate.bandwidth) if trips else rate
