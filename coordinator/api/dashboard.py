"""GET /dashboard: the page and its files, and the state that it asks for."""

import time
from pathlib import Path

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

import coordinator
from coordinator.api.errors import json_response
from coordinator.api.generation import Backend
from worker.errors import ConfigError

PREFIX = "/dashboard/"
_FOLDER = Path(coordinator.__file__).parent / "dashboard"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# where each file that belongs to the page is
ASSETS = {PREFIX + path.relative_to(_FOLDER).as_posix(): path for path in _FOLDER.rglob("*") if path.suffix in _TYPES}
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


async def page(backend: Backend, request: Request) -> Response:
    """The page."""
    return _file(PREFIX + "index.html")


async def slash(backend: Backend, request: Request) -> Response:
    """The page's URL has no slash at its end; its links are relative to that."""
    return RedirectResponse("../dashboard", 308)


async def asset(backend: Backend, request: Request) -> Response:
    """One of the page's files."""
    return _file(request.scope["path"])


async def state(backend: Backend, request: Request) -> Response:
    """The cluster now, and its history since the time `since`, which is the `now` of an earlier answer."""
    since = _since(request.query_params.get("since"))
    now = round(time.monotonic(), 3)
    body = {"now": now, "cluster": backend.pipeline.view(), "history": backend.observer.history.since(since, now)}
    return json_response(msgspec.json.encode(body), headers={"cache-control": "no-store"})


def _since(given: str | None) -> float | None:
    if given is None:
        return None
    try:
        return msgspec.json.decode(given, type=float)  # float() would take nan, inf and 1_000
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"since={given!r} is not a finite number: send the `now` of an earlier answer, or leave it out",
            param="since",
        ) from error


def _file(path: str) -> Response:
    found = ASSETS.get(path)
    if found is None:
        raise HTTPException(404)
    return Response(found.read_bytes(), media_type=_TYPES[found.suffix], headers=_HEADERS)
