"""Server-sent events, and clients that go away."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from coordinator.api.errors import error_body
from worker.errors import StagelineError

DONE = b"data: [DONE]\n\n"

# a proxy or a client may take a longer silence for a dead server, and a write is how some servers notice a dead client
SILENCE_SECONDS = 5.0

_COMMENT = b": keep-alive\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]

_OTHER_BREAKS = (("\u0085".encode(), b"\\u0085"), ("\u2028".encode(), b"\\u2028"), ("\u2029".encode(), b"\\u2029"))

T = TypeVar("T")

log = logging.getLogger("stageline.api")


def event(data: bytes) -> bytes:
    """One event; `data` is JSON, so it has no line break that the format knows.

    Some clients split lines at Unicode's other line breaks too: those are escaped, as only strings can hold them.
    """
    for raw, escaped in _OTHER_BREAKS:
        data = data.replace(raw, escaped)
    return b"data: " + data + b"\n\n"


def error_event(error: Exception) -> bytes:
    """The event that ends a stream after a failure."""
    return b"event: error\n" + event(error_body(error))


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; cancels it and raises ClientDisconnect when the client goes away first.

    The request's body must have been read.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_disconnected(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        await _end(working, leaving)


class EventStream:
    """A response of server-sent events.

    Nothing is sent before the first event, so a failure until then has a status of its own; but no longer than
    `silence` seconds: then the response starts with a comment, and another one follows after each such silence. A
    failure later is an `error` event, the last one. When the client goes away, `events` is closed.
    """

    def __init__(self, events: AsyncGenerator[bytes, None], *, silence: float = SILENCE_SECONDS) -> None:
        self._events = events
        self._silence = silence
        self._sending = asyncio.Lock()
        self._started = False
        self._last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the whole response."""
        try:
            await while_connected(receive, self._send_events(send))
        except ClientDisconnect:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, send: Send) -> None:
        self._last_sent = asyncio.get_running_loop().time()
        comments = asyncio.create_task(self._send_comments(send))
        try:
            async with aclosing(self._events) as events:
                async for piece in events:
                    await self._send(send, piece)
        except Exception as error:
            if not self._started:
                raise
            if not isinstance(error, StagelineError):
                log.exception("a stream ended with an unexpected failure")
            await self._send(send, error_event(error))
        finally:
            await _end(comments)

    async def _send_comments(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            rest = self._last_sent + self._silence - clock()
            if rest <= 0:
                await self._send(send, _COMMENT)
            else:
                await asyncio.sleep(rest)

    async def _send(self, send: Send, piece: bytes) -> None:
        async with self._sending:
            if not self._started:
                self._started = True
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            self._last_sent = asyncio.get_running_loop().time()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
