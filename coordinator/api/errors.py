"""Failures in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

from collections.abc import Callable

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from worker.errors import NotReadyError, QueueFullError, StagelineError, UserError

RETRY_AFTER_SECONDS = 2

_BODY_NOT_READ = (408, 413)  # what is left of it must not be taken for the next request
_TYPES = {429: "rate_limit_error", 499: "request_cancelled"}
_HTTP_CODES = {404: "unknown_url", 405: "method_not_allowed"}

Refused = Callable[[str], None]  # hears the code of every refusal


class ErrorInfo(msgspec.Struct, frozen=True):
    """What a client learns about a failure."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """A failure as it goes over the wire."""

    error: ErrorInfo


def error_body(error: Exception) -> bytes:
    """The JSON of a failure; one that we did not foresee is not explained to the client."""
    if isinstance(error, StagelineError):
        kind = _TYPES.get(error.status) or ("server_error" if error.status >= 500 else "invalid_request_error")
        info = ErrorInfo(error.message, kind, error.param, error.code)
    else:
        info = ErrorInfo(
            "an unexpected failure of the server; its log has the details", "server_error", None, "internal_error"
        )
    return msgspec.json.encode(ErrorBody(info))


def json_response(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A complete JSON response."""
    return Response(body, status, headers, media_type="application/json")


async def on_stageline_error(refused: Refused, request: Request, error: Exception) -> Response:
    """A failure of the tree in `worker.errors`, with its own status.

    Only the user's mistakes are refusals here: once there is a job, whoever has it tells how it ends.
    """
    assert isinstance(error, StagelineError)
    if isinstance(error, UserError) and getattr(request.state, "job", None) is None:
        refused(error.code)
    headers: dict[str, str] = {}
    if isinstance(error, NotReadyError):
        headers["retry-after"] = str(RETRY_AFTER_SECONDS)
    elif isinstance(error, QueueFullError):
        headers["retry-after"] = str(error.retry_after)
    if error.status in _BODY_NOT_READ:
        headers["connection"] = "close"
    return json_response(error_body(error), error.status, headers)


async def on_http_exception(refused: Refused, request: Request, error: Exception) -> Response:
    """What the router refuses: an unknown URL, a wrong method."""
    assert isinstance(error, HTTPException)
    message = f"{error.detail}: {request.method} {request.url.path}"
    code = _HTTP_CODES.get(error.status_code, f"http_{error.status_code}")
    refused(code)
    info = ErrorInfo(message, "invalid_request_error", None, code)
    return json_response(msgspec.json.encode(ErrorBody(info)), error.status_code, dict(error.headers or {}))


async def on_unexpected(request: Request, error: Exception) -> Response:
    """A bug of ours; the server raises it again and so logs the traceback."""
    return json_response(error_body(error), 500, {"x-request-id": request.state.request_id})


async def on_disconnect(request: Request, error: Exception) -> Response:
    """The client has gone; nobody reads this."""
    return Response(status_code=499)
