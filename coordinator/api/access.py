"""Who may come in: the API key, and an id for every request."""

import hmac
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.api.errors import error_body, json_response
from worker.errors import UserError

# everything else needs the key
PUBLIC_PATHS = frozenset({"/health", "/ready"})

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class UnauthorizedError(UserError):
    """No API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class RequestIds:
    """Gives every request an id, the client's own if it has a harmless one, and returns it in the response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class KeyRequired:
    """Refuses requests that carry the key neither as `Authorization: Bearer` nor as `x-api-key`."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._key = key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind."""
        if scope["type"] == "lifespan" or scope.get("path") in PUBLIC_PATHS or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError("a valid API key is needed, as `Authorization: Bearer KEY` or as `x-api-key: KEY`")
        response = json_response(error_body(error), error.status, {"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("latin-1"), self._key)
