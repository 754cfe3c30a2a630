"""For operators: GET /health, /ready, /cluster."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.errors import RETRY_AFTER_SECONDS, json_response
from coordinator.api.generation import Backend
from coordinator.view import StageState


class Waiting(msgspec.Struct, frozen=True):
    """A stage that is not ready. What else is known of it is in `/cluster`, which asks for the API key."""

    stage: int
    layers: tuple[int, int]
    state: StageState


class Readiness(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether requests are taken; if not, why, and which stages are not ready."""

    status: str
    reason: str = ""
    stages: tuple[Waiting, ...] = ()


async def health(backend: Backend, request: Request) -> Response:
    """200 as long as this process answers at all."""
    return json_response(b'{"status":"ok"}')


async def ready(backend: Backend, request: Request) -> Response:
    """200 if every stage is ready, else 503 with the reason and those that are not."""
    reason = backend.pipeline.problem()
    if reason is None:
        return json_response(msgspec.json.encode(Readiness("ready")))
    stages = backend.pipeline.view().stages
    waiting = tuple(Waiting(stage.stage, stage.layers, stage.state) for stage in stages if stage.state != "ready")
    body = msgspec.json.encode(Readiness("not_ready", reason, waiting))
    return json_response(body, 503, {"retry-after": str(RETRY_AFTER_SECONDS)})


async def cluster(backend: Backend, request: Request) -> Response:
    """The state of all stages."""
    return json_response(msgspec.json.encode(backend.pipeline.view()))
