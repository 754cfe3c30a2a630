"""GET /requests/{id}: where the time of one request went. DELETE: its end."""

import asyncio
import contextlib
import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.errors import json_response
from coordinator.api.generation import Backend
from coordinator.telemetry.journal import KEPT, Entry
from coordinator.view import ClusterView, RequestView, StageShare
from worker.errors import UserError

END_SECONDS = 5.0
FREE_SECONDS = 1.0


class UnknownRequestError(UserError):
    """No request of this name is remembered."""

    status = 404
    code = "request_not_found"


async def one_request(backend: Backend, request: Request) -> Response:
    """One request by its response's id or by its `X-Request-Id`. Of one that has just ended the stages' times are still
    on their way: they are waited for, FREE_SECONDS at most."""
    entry = _find(backend, request)
    if entry.ended is not None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(backend.pipeline.freed(entry.number), FREE_SECONDS)
    return _response(backend, entry)


async def cancel_request(backend: Backend, request: Request) -> Response:
    """Ends one request; answers when every stage has freed it and its own answer is over. One that has ended stays as
    it is. A client that does not read its answer holds up its end: it is waited for END_SECONDS at most."""
    entry = _find(backend, request)
    await backend.pipeline.cancel(entry.number)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(backend.observer.end(entry), END_SECONDS)
    return _response(backend, entry)


def _find(backend: Backend, request: Request) -> Entry:
    name = request.path_params["id"]
    entry = backend.observer.journal.find(name)
    if entry is None:
        raise UnknownRequestError(
            f"no request {name!r} is remembered: give the id of a response or its X-Request-Id; of the requests that "
            f"have ended the last {KEPT} are kept"
        )
    return entry


def _response(backend: Backend, entry: Entry) -> Response:
    return json_response(msgspec.json.encode(_view(entry, backend.pipeline.view(), time.monotonic())))


def _view(entry: Entry, cluster: ClusterView, now: float) -> RequestView:
    return RequestView(
        id=entry.id,
        request_id=entry.request_id,
        state=entry.state,
        finish_reason=entry.finish,
        error=entry.error,
        prompt_tokens=entry.prompt_tokens,
        cached_tokens=entry.cached,
        generated_tokens=entry.generated,
        queue_seconds=entry.since_arrival(entry.admitted),
        first_token_seconds=entry.since_arrival(entry.first),
        total_seconds=(now if entry.ended is None else entry.ended) - entry.arrived,
        stages=tuple(
            StageShare(**msgspec.structs.asdict(times), layers=cluster.stages[times.stage].layers)
            for times in entry.times
        ),
    )
