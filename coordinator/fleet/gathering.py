"""From a hostfile to agents that take orders: look, launch, listen, ask."""

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncGenerator, Sequence
from functools import partial

import zmq

from coordinator.control import Control
from coordinator.fleet.addresses import address_towards
from coordinator.fleet.fleet import Fleet
from coordinator.fleet.hostfile import Host, Hostfile
from coordinator.fleet.launcher import Launcher, log_failure
from coordinator.fleet.member import Member
from coordinator.fleet.preflight import differs, preflight
from coordinator.fleet.refused import HostsError
from coordinator.settings import Settings
from worker.agent.messages import Survey
from worker.errors import ClusterError, ConfigError
from worker.links.addresses import is_loopback, split
from worker.links.keyring import Keyring
from worker.links.sockets import tcp
from worker.versions import Installed

HAIL_SECONDS = 60.0  # for launched agents to be there
SURVEY_SECONDS = 180.0  # to describe the model, and to measure
TELL_SECONDS = 10.0
CHECK_SECONDS = 30.0  # for agents that run already, where somebody waits for a look at them
REVIVE_SECONDS = 60.0  # of silence: an agent that lives and is cut off gives up after 20
MOST_FAILURES = 3
ANYWHERE, ANYWHERE_6 = "0.0.0.0", "::"

log = logging.getLogger("stageline.hosts")


@contextlib.asynccontextmanager
async def gather(
    settings: Settings,
    hostfile: Hostfile,
    *,
    model: str = "",
    model_hash: str = "",
    measure: bool = False,
    checks: bool = False,
) -> AsyncGenerator[Fleet]:
    """The agents of all hosts, all in agreement with this machine; they leave with the context.

    `model` is a source that every host is to find; `model_hash` is this machine's. With `checks` a host that does not
    agree is let in all the same: the caller wants to know how it differs. Raises ConfigError or ClusterError,
    naming the host and the fix, and then leaves nothing running anywhere.
    """
    keyring = hosts_keyring(settings, hostfile)
    keys = {} if keyring is None else _keys(keyring, hostfile)
    if settings.launch:
        await preflight(hostfile, settings.python or sys.executable)
    control_of, binds = _addresses(settings, hostfile.hosts)
    survey = Survey(model=model, peers=(), silence=settings.heartbeat_timeout, measure=measure, checks=checks)
    async with contextlib.AsyncExitStack() as stack:
        agrees = partial(_objection, model_hash=model_hash, checks=checks)
        fleet = Fleet(hostfile.hosts, survey=survey, keys=keys, agrees=agrees)
        control = Control(receive=fleet.received, hear=fleet.hear, keyring=keyring)
        stack.callback(control.close)
        fleet.speak_through(control)
        ports = {ip: _bind(control, ip, port).rpartition(":")[2] for ip, port in binds}
        everywhere = next(iter(ports.values()))
        launchers = [
            _launcher(
                settings,
                hostfile,
                host,
                tcp(control_of[host.name], ports.get(control_of[host.name], everywhere)),
                keyring,
            )
            for host in hostfile.hosts
            if settings.launch
        ]
        stack.push_async_callback(_end, fleet, launchers)
        for work in (fleet.watch(), _revive(fleet, launchers)):
            task = asyncio.create_task(work)
            task.add_done_callback(log_failure)
            stack.callback(task.cancel)
        await _until_present(fleet, launchers, limit=CHECK_SECONDS if checks else None)
        yield fleet


def hosts_keyring(settings: Settings, hostfile: Hostfile) -> Keyring | None:
    """The keys of a cluster on these hosts; None if it needs none and there are none.

    Raises ConfigError if another machine takes part and there are no keys: then anybody could.
    """
    keyring = Keyring.at(settings.keys)
    if keyring.has_pair:
        return keyring
    addresses = [ip for host in hostfile.hosts for ip in host.ips or [ANYWHERE]]
    if settings.control is not None:
        addresses.append(split(settings.control)[0])
    if settings.insecure or all(map(is_loopback, addresses)):
        return None
    raise ConfigError(
        f"there are no keys in {keyring.directory}, and without them anybody in the network could take part: run "
        "`stageline keys new` and `stageline keys add --hosts HOSTFILE`, or pass --insecure if the network is trusted",
        param="keys",
    )


def _keys(keyring: Keyring, hostfile: Hostfile) -> dict[str, str]:
    keys = {host.name: keyring.key_of(host.name) for host in hostfile.hosts}
    if missing := [name for name, key in keys.items() if key is None]:
        raise ConfigError(
            f"no key is known of {', '.join(missing)}: run `stageline keys add --hosts HOSTFILE`, or "
            f"`stageline keys add {missing[0]} KEY` with what `stageline keys list` says there",
            param="keys",
        )
    return {name: key for name, key in keys.items() if key is not None}


def _addresses(settings: Settings, hosts: Sequence[Host]) -> tuple[dict[str, str], list[tuple[str, int]]]:
    """This machine's address as each host has to dial it, and what to bind: (address, port), port 0 being any."""
    ip, port = split(settings.control) if settings.control is not None else ("", 0)
    if ip not in ("", ANYWHERE, ANYWHERE_6):
        return {host.name: ip for host in hosts}, [(ip, port)]
    towards = {host.name: _towards(host) for host in hosts if host.ips}
    return towards, [(ip, port)] if ip else [(each, 0) for each in dict.fromkeys(towards.values())]


def _towards(host: Host) -> str:
    try:
        return address_towards(host.ips[0])
    except ConfigError as error:
        raise ConfigError(f"host {host.name}: {error.message}", param="hosts") from error


def _bind(control: Control, ip: str, port: int) -> str:
    try:
        return control.bind(tcp(ip, port or "*"))
    except zmq.ZMQError as error:
        raise ConfigError(
            f"cannot listen for agents on {ip} port {port}: {error.strerror}; choose another with --control",
            param="control",
        ) from error


def _launcher(
    settings: Settings,
    hostfile: Hostfile,
    host: Host,
    coordinator: str,
    keyring: Keyring | None,
) -> Launcher:
    keys = ["--keys", settings.keys] if settings.keys else []  # else each host's own
    if keyring is None:
        keys = ["--insecure"]
    elif host.is_local:
        keys = ["--keys", str(keyring.directory)]
    agent = ["-P", "-m", "worker.agent.cli", "--coordinator", coordinator, "--name", host.name]
    return Launcher(
        host,
        envs=hostfile.envs,
        python=settings.python or sys.executable,
        agent=[*agent, "--address", host.ips[0], *keys],
    )


async def _revive(fleet: Fleet, launchers: Sequence[Launcher]) -> None:
    """For ever: starts a launcher again whose agent has been silent for long. Its ssh may wait for a host that was
    switched off, for as long as TCP does: hours."""
    loop = asyncio.get_running_loop()
    since: dict[str, float] = {}
    while True:
        await asyncio.sleep(1)
        now, silent = loop.time(), fleet.silent()
        for launcher in launchers:
            if launcher.name not in silent:
                since.pop(launcher.name, None)
            elif now - since.setdefault(launcher.name, now) > REVIVE_SECONDS:
                del since[launcher.name]
                launcher.again()


async def _until_present(fleet: Fleet, launchers: Sequence[Launcher], *, limit: float | None) -> None:
    """Waits for all hosts, for agents that were not launched here up to `limit` seconds. Raises ConfigError or
    ClusterError if one cannot take part or does not come."""
    loop = asyncio.get_running_loop()
    began = told = loop.time()
    while fleet.absent():
        await fleet.changed()
        if (problem := fleet.objection()) is not None:
            raise ConfigError(problem, param="hosts")
        now, silent = loop.time(), fleet.silent()
        for launcher in launchers:
            if launcher.name in silent and launcher.error:
                raise HostsError({launcher.name: launcher.error})
            if launcher.name in silent and launcher.failures >= MOST_FAILURES:
                raise ClusterError(f"host {launcher.name}: its agent does not stay: {launcher.last_words}")
        if launchers and now - began > (HAIL_SECONDS if silent else SURVEY_SECONDS):
            late = silent or fleet.absent()
            said = "; ".join(f"{each.name} said: {each.last_words}" for each in launchers if each.name in late)
            raise ClusterError(
                f"no word from the agent on {', '.join(late)} for {now - began:.0f} s; check that the hosts reach this "
                f"machine (firewall, and on macOS the Local Network permission); {said}"
            )
        if not launchers and limit is not None and now - began > limit:
            absent = ", ".join(fleet.absent())
            raise ClusterError(f"no agent of {absent} has come within {limit:g} s: is it running, with this address?")
        if now - told > TELL_SECONDS:
            told = now
            log.info("waiting for the agents of %s", ", ".join(silent or fleet.absent()))


async def _end(fleet: Fleet, launchers: Sequence[Launcher]) -> None:
    fleet.dismiss()
    await asyncio.gather(*(launcher.stop() for launcher in launchers))


def _objection(member: Member, *, model_hash: str, checks: bool) -> str | None:
    """Why a surveyed host cannot take part."""
    if checks:
        return None
    hail, surveyed = member.hail, member.surveyed
    assert hail is not None
    assert surveyed is not None
    if (problem := differs(Installed(hail.versions, hail.protocol))) is not None:
        return problem
    if surveyed.problem:
        return surveyed.problem
    if model_hash and surveyed.model_hash != model_hash:
        return (
            f"has another model: its hash is {surveyed.model_hash}, here it is {model_hash}; copy the directory again, "
            "or name a hub id with a revision"
        )
    return None
