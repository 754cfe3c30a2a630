"""The socket on which the HTTP server listens."""

import socket

from worker.errors import ConfigError


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes any free one. Raises ConfigError if the address cannot be taken.

    Its protocol is named, not left to the system's choice: asyncio turns Nagle's algorithm off only where it reads
    "TCP" there, and with it on the first tokens of an answer wait 40 ms for an acknowledgement of the headers.
    """
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}; choose another with --port, "
            "or --port 0 for any free one",
            param="port",
        ) from error
    return socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listener.detach())
