"""For Prometheus: GET /metrics, and GET /metrics/targets, which tells it where the workers' metrics are."""

import msgspec
from prometheus_client.exposition import choose_encoder
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.errors import json_response
from coordinator.api.generation import Backend


class TargetGroup(msgspec.Struct, frozen=True):
    """Addresses with common labels, as Prometheus' HTTP service discovery reads them."""

    targets: tuple[str, ...]
    labels: dict[str, str]


async def metrics(backend: Backend, request: Request) -> Response:
    """The coordinator's own series, in the format that the client asks for."""
    encode, content_type = choose_encoder(request.headers.get("accept", ""))
    return Response(encode(backend.observer.registry), media_type=content_type)


async def targets(backend: Backend, request: Request) -> Response:
    """The workers that live, and this server under the name by which it was asked."""
    groups = [
        TargetGroup((stage.metrics,), {"job": "stageline-stage", "stage": str(stage.stage)})
        for stage in backend.pipeline.view().stages
        if stage.metrics
    ]
    groups.append(TargetGroup((request.url.netloc,), {"job": "stageline-coordinator"}))
    return json_response(msgspec.json.encode(groups))
