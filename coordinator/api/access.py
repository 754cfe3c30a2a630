"""Who may come in: the API key or only this machine's own pages, and an id for every request."""

import hmac
import re
import uuid
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.api.dashboard import ASSETS
from coordinator.api.errors import Refused, error_body, json_response
from worker.errors import UserError
from worker.links.addresses import is_loopback

# everything else needs the key; the page itself holds no data
PUBLIC_PATHS = frozenset({"/health", "/ready", "/dashboard", "/dashboard/", *ASSETS})

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class UnauthorizedError(UserError):
    """No API key, or a wrong one."""

    status = 401
    code = "invalid_api_key"


class ForeignPageError(UserError):
    """A request that a web page from elsewhere may have caused."""

    status = 403
    code = "forbidden_origin"


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

    def __init__(self, app: ASGIApp, key: str, refused: Refused) -> None:
        self._app = app
        self._key = key.encode()
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind."""
        if scope["type"] == "lifespan" or scope.get("path") in PUBLIC_PATHS or self._knows(Headers(scope=scope)):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError("a valid API key is needed, as `Authorization: Bearer KEY` or as `x-api-key: KEY`")
        self._refused(error.code)
        response = json_response(error_body(error), error.status, {"www-authenticate": "Bearer"})
        await response(scope, receive, send)

    def _knows(self, headers: Headers) -> bool:
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        return hmac.compare_digest(given.encode("latin-1"), self._key)


class LocalOnly:
    """Refuses requests under a name that is not loopback, or from a web page that is not on loopback.

    Without a key the only protection is that other machines cannot connect; but a browser on this machine can, for any
    page it shows. A page's request names the page in Origin; and a page that had its own name resolve to 127.0.0.1
    (DNS rebinding), for which the browser sends no Origin or the page's own, has that name in Host.
    """

    def __init__(self, app: ASGIApp, refused: Refused) -> None:
        self._app = app
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One connection of any kind."""
        if scope["type"] == "lifespan" or (foreign := _foreign(Headers(scope=scope))) is None:
            await self._app(scope, receive, send)
            return
        error = ForeignPageError(
            f"{foreign} is not this machine's own name (localhost, 127.0.0.1 or [::1]); to serve under other names, "
            "start the server with an API key or with --insecure"
        )
        self._refused(error.code)
        await json_response(error_body(error), error.status)(scope, receive, send)


def _foreign(headers: Headers) -> str | None:
    """The header whose name is not loopback, if any."""
    host, origin = headers.get("host", ""), headers.get("origin")
    if not _names_loopback(f"//{host}"):
        return f"Host {host!r}"
    return None if origin is None or _names_loopback(origin) else f"Origin {origin!r}"


def _names_loopback(url: str) -> bool:
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
