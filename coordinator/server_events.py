"""Server-sent events, as a client reads them."""

from collections.abc import Iterable, Iterator

import msgspec


class ServerEvent(msgspec.Struct, frozen=True):
    """One server-sent event."""

    event: str
    data: str


class EventParser:
    """Finds the events in a stream of bytes that is cut anywhere; comments and events without data are dropped.

    Lines end in LF or CR LF only: str.splitlines would also cut at the U+2028 that an answer may contain.
    """

    def __init__(self) -> None:
        self._rest = b""
        self._event = "message"
        self._data: list[str] = []

    def feed(self, piece: bytes) -> list[ServerEvent]:
        """The events that end in this piece."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        events = [self._line(line.removesuffix(b"\r").decode(errors="replace")) for line in lines]
        return [event for event in events if event is not None]

    def _line(self, line: str) -> ServerEvent | None:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            self._event = value
        elif field == "data":
            self._data.append(value)
        elif not line:
            event, data, self._event, self._data = self._event, self._data, "message", []
            return ServerEvent(event, "\n".join(data)) if data else None
        return None


def server_events(pieces: Iterable[bytes]) -> Iterator[ServerEvent]:
    """The events in the stream `pieces`."""
    parser = EventParser()
    for piece in pieces:
        yield from parser.feed(piece)
