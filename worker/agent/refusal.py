"""Why there is no connection to the coordinator, and what to do about it."""

import asyncio
import errno
import shlex
from pathlib import Path

from worker.agent.greeting import CURVE, NULL, mechanism
from worker.agent.link import Event
from worker.agent.settings import AgentSettings
from worker.errors import ConfigError
from worker.links.addresses import EHOSTUNREACH_MACOS, family_of
from worker.links.keyring import Keyring

PROBE_SECONDS = 2.0

REASONS = {
    errno.ECONNREFUSED: "nothing listens there: start the coordinator, or correct --coordinator",
    errno.ENETUNREACH: "there is no network on the way: check this machine's network",
    EHOSTUNREACH_MACOS: "it cannot be reached: check the network, and on macOS allow this program in System Settings, "
    "Privacy & Security, Local Network",
    errno.EHOSTUNREACH: "it cannot be reached: check its address and the network",
}


async def refusal(event: Event, settings: AgentSettings) -> tuple[str, bool]:
    """What a failed handshake means, in one line, and whether trying again is in vain; asks the coordinator's socket
    if `event` does not say."""
    where, keys = settings.coordinator, settings.keys
    asked = await mechanism(settings.endpoint) if event is Event.HUNG_UP else None
    if event is Event.UNKNOWN_KEY and keys is not None:
        return (
            f"the coordinator at {where} does not know this host's key: run there "
            f"`stageline keys add {settings.name} {shlex.quote(_public(keys))}`"
        ), True
    if keys is None and (event is Event.MISMATCH or asked == CURVE):
        return f"the coordinator at {where} asks for keys: give --keys instead of --insecure", True
    if keys is not None and (event is Event.MISMATCH or asked == NULL):
        return f"the coordinator at {where} uses no keys: start it with keys, or this agent with --insecure", True
    if keys is not None and asked == CURVE:
        return (
            f"the coordinator at {where} hangs up: its key is not the one in {keys}/coordinator; "
            "`stageline keys list` there shows it, `stageline keys add --coordinator KEY` here takes it"
        ), True
    return f"what listens at {where} is no coordinator of Stageline: correct --coordinator", False


async def unreachable(settings: AgentSettings) -> str:
    """Why there is no TCP connection, in one line; asks the system by trying one."""
    where, reason = settings.coordinator, ""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            _, writer = await asyncio.open_connection(*settings.endpoint, family=family_of(settings.endpoint.host))
        writer.close()
        reason = "what listens there does not answer as a coordinator yet: if that stays, correct --coordinator"
    except TimeoutError:
        reason = "no answer: check the address, and the firewall there"
    except OSError as error:
        reason = REASONS.get(error.errno or 0, "") or error.strerror or str(error)
    return f"no connection to the coordinator at {where}: {reason}"


def _public(keys: Path) -> str:
    try:
        return Keyring(keys).public
    except ConfigError:
        return "KEY"
