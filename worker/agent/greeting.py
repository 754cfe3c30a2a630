"""What a ZeroMQ socket at an endpoint asks of its peers, as its greeting says (ZMTP 3, rfc.zeromq.org/spec/23).

Of a handshake that fails ZeroMQ itself mostly tells that the other side hung up: both sides do when they differ, and
the faster one's reason is lost.
"""

import asyncio

from worker.agent.address import Endpoint
from worker.links.addresses import family_of

GREETING_BYTES = 64  # signature 10, version 2, mechanism 20, as-server 1, filler 31
MECHANISM = slice(12, 32)
HELLO = b"\xff" + bytes(8) + b"\x7f" + b"\x03"  # the signature and our version: after these the peer says the rest
GREETING_SECONDS = 2.0

CURVE = "CURVE"
NULL = "NULL"


async def mechanism(endpoint: Endpoint) -> str | None:
    """The security mechanism of what listens there: `CURVE` (keys), `NULL` (none) or another's name.

    None if it does not answer as ZeroMQ does.
    """
    try:
        async with asyncio.timeout(GREETING_SECONDS):
            reader, writer = await asyncio.open_connection(*endpoint, family=family_of(endpoint.host))
            try:
                writer.write(HELLO)
                greeting = await reader.readexactly(GREETING_BYTES)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return None
    if (greeting[0], greeting[9]) != (HELLO[0], HELLO[9]):
        return None
    return greeting[MECHANISM].rstrip(b"\0").decode("ascii", "replace")
