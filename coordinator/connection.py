"""One client's connection to the HTTP server: uvicorn's, with a limit of time for headers and errors in our shape."""

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

from coordinator.api.errors import error_body
from worker.errors import UserError

HEADER_SECONDS = 10.0
_BAD_REQUEST = error_body(
    UserError("the request is not valid HTTP/1.1: check its first line and its headers, and that the URL is not https")
)


class Connection(H11Protocol):
    """Closes unless a whole header has come `HEADER_SECONDS` after its first byte, or after the connection was made.

    Without that limit, connections that send nothing take all places for as long as they like.
    """

    _overdue: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Begins to wait for the first header."""
        super().connection_made(transport)
        self._limit_wait()

    def data_received(self, data: bytes) -> None:
        """Takes bytes of a request, which end the wait if its header is complete, or begin it."""
        super().data_received(data)
        self._limit_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody waits any more."""
        super().connection_lost(exc)
        if self._overdue is not None:
            self._overdue.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request, and closes."""
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\ncontent-length: {len(_BAD_REQUEST)}\r\n"
        self.transport.write(f"{head}connection: close\r\n\r\n".encode() + _BAD_REQUEST)
        self.transport.close()

    def _limit_wait(self) -> None:
        waits = not self.cycle or self.cycle.response_complete
        if waits and self._overdue is None:
            self._overdue = self.loop.call_later(HEADER_SECONDS, self.transport.close)
        elif not waits and self._overdue is not None:
            self._overdue.cancel()
            self._overdue = None
