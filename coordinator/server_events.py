"""Server-sent events, as a client reads them."""

from collections.abc import Iterable, Iterator

import msgspec


class ServerEvent(msgspec.Struct, frozen=True):
    """One server-sent event."""

    event: str
    data: str


def server_events(pieces: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events in a stream of bytes that is cut anywhere; comments and events without data are dropped.

    Lines end in LF or CR LF only: str.splitlines would also cut at the U+2028 that an answer may contain.
    """
    event, data = "message", list[str]()
    for line in _lines(pieces):
        if not line:
            if data:
                yield ServerEvent(event, "\n".join(data))
            event, data = "message", []
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            event = value
        elif field == "data":
            data.append(value)


def _lines(pieces: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r").decode(errors="replace")
