"""A request's body: bytes to a checked struct, every mistake named."""

import asyncio
import re
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request

from coordinator.api.schema import UNSUPPORTED
from worker.errors import UserError

MAX_BODY_BYTES = 32 << 20
BODY_SECONDS = 30.0

T = TypeVar("T")

_PLACE = re.compile(r"^(?P<what>.*?)(?: - at `(?P<key>key in )?\$(?P<path>.*)`)?$", re.DOTALL)
# a \\u escape of one half of a pair
_LONE_SURROGATE = re.compile(r"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F]")
_MISSING = re.compile(r"missing required field `(\w+)`")


class BodyTooLargeError(UserError):
    """A body over the limit."""

    status = 413
    code = "body_too_large"


class BodyTimeoutError(UserError):
    """A body that does not end."""

    status = 408
    code = "request_timeout"


class UnsupportedError(UserError):
    """A field that would change the answer, in a way that we cannot honour."""

    code = "unsupported_value"


async def read_body(request: Request, kind: type[T]) -> T:
    """The body as a `kind`. Fields of other names are ignored unless they would change the answer.

    Raises UserError: too slow, too large, not UTF-8, not JSON, not an object, a field of a wrong type or value, or
    unsupported.
    """
    try:
        async with asyncio.timeout(BODY_SECONDS):
            text = _utf8(await _read(request))
    except TimeoutError as error:
        raise BodyTimeoutError(f"the body did not arrive whole within {BODY_SECONDS:g} seconds") from error
    try:
        fields = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        problem = "a \\u escape is half a character, a lone surrogate" if _LONE_SURROGATE.search(text) else str(error)
        raise UserError(f"the body is not a JSON object: {problem}") from error
    _refuse_unsupported(fields)
    return convert(fields, kind)


def convert(value: Any, kind: Any, prefix: str = "") -> Any:
    """`value` as a `kind`; `prefix` is where in the body it stands. Raises UserError naming the field."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        match = _PLACE.match(str(error))
        assert match is not None
        what = match["what"].replace("`", "").replace(" | null", "")
        param = (prefix + (match["path"] or "")).removeprefix(".")
        if missing := _MISSING.search(str(error)):
            param = f"{param}.{missing[1]}".removeprefix(".")
            raise UserError(f"`{param}` is required", param=param) from error
        if "got" not in what:
            what += _got(value, param)
        raise UserError(f"`{param}`: {what[:1].lower()}{what[1:]}", param=param) from error


def _got(fields: Any, name: str) -> str:
    try:
        return f", got {str(fields[name])[:40]}"
    except (LookupError, TypeError):  # it stands deeper
        return ""


def _refuse_unsupported(fields: dict[str, Any]) -> None:
    for name, neutral in UNSUPPORTED.items():
        value = fields.get(name)
        if value is None or any(type(value) is type(other) and value == other for other in neutral):
            continue
        allowed = f"; leave it out or send {msgspec.json.encode(neutral[0]).decode()}" if neutral else "; leave it out"
        raise UnsupportedError(f"`{name}` with this value is not supported{allowed}", param=name)


async def _read(request: Request) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > MAX_BODY_BYTES:
        raise BodyTooLargeError(f"the body has {declared} bytes, the limit is {MAX_BODY_BYTES}")
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"the body has more than {MAX_BODY_BYTES} bytes, the limit")
    return bytes(body)


def _utf8(body: bytes) -> str:
    try:
        return body.decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"the body is not UTF-8: {error.reason} at byte {error.start}") from error
