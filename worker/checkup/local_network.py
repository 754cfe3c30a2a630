"""Whether macOS keeps this program away from the machines beside it.

From macOS 15 on a program needs the user's permission for addresses of its own network; without it a connection ends
in EHOSTUNREACH, 65 there, while the gateway and the internet can be reached (Apple's technical note TN3179). What
counts is the program that started ours: Terminal and ssh need no permission. Not checked on a Mac by us.
"""

import errno
import ipaddress
import socket
from collections.abc import Iterable, Mapping

from worker.agent.messages import Finding
from worker.checkup.check import Check
from worker.links.addresses import EHOSTUNREACH_MACOS

SECONDS = 2.0

ALLOW = (
    "allow it in System Settings, Privacy & Security, Local Network, for the program that started this one (the "
    "terminal, tmux, the service); or start it from Terminal or by ssh"
)
CHECK = Check(
    "local_network",
    "macOS: whether it lets this program reach the other hosts, by a connection to each. Fails for errno 65 "
    "(EHOSTUNREACH) at a private address. Only with --hosts.",
    (ALLOW,),
)


def connect(address: str, port: int) -> int:
    """The errno of a TCP connection to an IP address, 0 if there is one."""
    try:
        with socket.create_connection((address, port), SECONDS):
            return 0
    except TimeoutError:
        return errno.ETIMEDOUT
    except OSError as error:
        return error.errno or errno.EIO


def tried(peers: Iterable[tuple[str, int]]) -> dict[str, int]:
    """IP address -> errno of a connection to its port."""
    return {address: connect(address, port) for address, port in peers}


def local_network(attempts: Mapping[str, int]) -> Finding:
    """`attempts`: IP address of another host -> errno on macOS, 0 if there was a connection."""
    if not attempts:
        return CHECK.ok("not tried: no other host was named")
    blocked = [
        address
        for address, number in attempts.items()
        if number == EHOSTUNREACH_MACOS and ipaddress.ip_address(address).is_private
    ]
    if blocked:
        return CHECK.fail(f"macOS lets nothing through to {', '.join(blocked)} (errno {EHOSTUNREACH_MACOS})", ALLOW)
    return CHECK.ok(f"macOS lets this program reach {', '.join(attempts)}")
