"""The machine that `stageline doctor` runs on."""

import platform
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from msgspec.structs import replace

from coordinator.config import check_host
from coordinator.doctor import fit, ports
from coordinator.doctor.bandwidth import bandwidth
from coordinator.doctor.report import HostFindings
from coordinator.fleet.gathering import hosts_keyring
from coordinator.fleet.hostfile import Hostfile
from coordinator.plan.machine import Machine
from coordinator.plan.this_machine import known_chip, this_machine
from coordinator.settings import Settings
from worker.agent.messages import Device, Finding
from worker.checkup import checkup, disk
from worker.errors import ConfigError
from worker.links.addresses import is_loopback, split
from worker.links.keyring import Keyring
from worker.versions import versions

SSH_PORT = 22
RUNTIME = Path("/tmp")  # where `up` makes its directory of sockets


def here(
    settings: Settings,
    hostfile: Hostfile | None,
    model: fit.Found | None,
    devices: Sequence[Device],
    *,
    measured: bool,
) -> HostFindings:
    """What is to be said of this machine; `measured`: the bandwidth of its `devices` is known."""
    findings = [
        *checkup(keys=_keys(settings, hostfile), runtime=RUNTIME, peers=_peers(hostfile)),
        *_disk(settings, model),
        _ports(settings),
    ]
    if measured:
        findings.append(bandwidth(devices))
    return HostFindings(
        name="", platform=platform.platform(), versions=versions(), devices=tuple(devices), findings=tuple(findings)
    )


def machines_here(devices: Sequence[Device]) -> tuple[Machine, ...]:
    """This machine for the planner, each card by itself, and as fast as was measured."""
    machines = this_machine(len(devices))
    if len({machine.name for machine in machines}) < len(devices):
        return machines[:1]
    return tuple(_measured(machine, device) for machine, device in zip(machines, devices, strict=True))


def _measured(machine: Machine, device: Device) -> Machine:
    if not device.bandwidth:
        return machine
    if known_chip(device) is not None:
        return replace(machine, read=min(device.bandwidth, machine.bandwidth))
    # a processor is bound by arithmetic: the share of what it reads is kept
    return replace(machine, bandwidth=device.bandwidth, read=device.bandwidth * machine.read / machine.bandwidth)


def _keys(settings: Settings, hostfile: Hostfile | None) -> Path | None:
    """The directory of keys if there are any, and if there have to be."""
    keyring = Keyring.at(settings.keys)
    try:
        needed = hostfile is not None and hosts_keyring(settings, hostfile) is not None
    except ConfigError:
        needed = True
    return keyring.directory if needed or keyring.has_pair else None


def _peers(hostfile: Hostfile | None) -> list[tuple[str, int]]:
    """Where the other hosts can be tried. That nothing listens there tells as much: it takes a way there to say so."""
    if hostfile is None:
        return []
    firsts = [host.ips[0] for host in hostfile.hosts if host.ips and not host.is_local]
    return [(ip, SSH_PORT) for ip in firsts if not is_loopback(ip)]


def _disk(settings: Settings, model: fit.Found | None) -> Iterator[Finding]:
    rooms: list[disk.Room] = []
    if settings.snapshot_dir:
        rooms.append(disk.room("snapshots", Path(settings.snapshot_dir)))
    if model is not None and model.missing:
        rooms.append(disk.room("models", Path(HF_HUB_CACHE), model.missing))
    if rooms:
        yield disk.disk(rooms)


def _ports(settings: Settings) -> Finding:
    http = settings.host, settings.port
    addresses = [http]
    if settings.control is not None:
        addresses.append(split(settings.control))
    try:
        check_host(settings)
    except ConfigError as error:
        return ports.ports({}, False, http, error.message)
    taken = {address: ports.try_port(*address) for address in addresses}
    return ports.ports(taken, bool(taken[http]) and ports.serves(*http), http)
