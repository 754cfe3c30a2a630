"""Requests that the server's end cuts off."""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.api.errors import error_body, json_response
from worker.errors import NotReadyError


class AnswerWhenCancelled:
    """Answers 503 for a request that is cancelled before its response began: its body never came, or its prompt is
    still being made. The server would log a traceback and send an empty 500 instead."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind."""
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except asyncio.CancelledError:
            if started or scope["type"] != "http":
                raise
            error = NotReadyError("the server is stopping")
            await json_response(error_body(error), error.status, {"connection": "close"})(scope, receive, send)
