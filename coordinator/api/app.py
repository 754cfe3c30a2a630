"""The application: routes, who may come in, and the shape of failures."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect
from starlette.routing import Route

from coordinator.api.access import KeyRequired, LocalOnly, RequestIds
from coordinator.api.chat import chat_completions
from coordinator.api.completions import completions
from coordinator.api.dashboard import asset, page, slash, state
from coordinator.api.errors import on_disconnect, on_http_exception, on_stageline_error, on_unexpected
from coordinator.api.generation import Backend
from coordinator.api.metrics import metrics, targets
from coordinator.api.models import list_models, one_model
from coordinator.api.ops import cluster, health, ready
from coordinator.api.request_log import RequestLog
from coordinator.api.requests import cancel_request, one_request
from coordinator.api.stopping import AnswerWhenCancelled
from coordinator.api.threads import Threads
from coordinator.api.trace import one_trace
from coordinator.served import ServedModel
from coordinator.telemetry.collector import ClusterCollector
from coordinator.telemetry.observer import Observer
from coordinator.text.answer import TokenSource
from worker.errors import StagelineError

# prompts that are made at the same time; those of long bodies wait for each other, so that no other one waits for them
PROMPT_THREADS = 4
LONG_PROMPT_THREADS = 1


def create_app(
    *, model: ServedModel, pipeline: TokenSource, observer: Observer, api_key: str | None, local_only: bool = False
) -> Starlette:
    """Serves `model`, whose tokens come from `pipeline`, and what `observer` has seen. With `api_key`, all but health,
    readiness and the dashboard's files need it.

    There are no CORS headers, and `local_only` refuses other names than loopback's in Host and Origin: no web page may
    use this server from a browser, not even one that makes its own name point here (DNS rebinding).
    """
    backend = Backend(model, pipeline, observer, Threads(PROMPT_THREADS), Threads(LONG_PROMPT_THREADS))
    observer.registry.register(ClusterCollector(pipeline.view, observer))

    def route(path: str, endpoint: Callable[..., Awaitable[Any]], method: str = "GET") -> Route:
        return Route(path, partial(endpoint, backend), methods=[method])

    middleware = [
        Middleware(RequestIds),
        Middleware(RequestLog, journal=observer.journal),
        Middleware(AnswerWhenCancelled),
    ]
    if local_only:
        middleware.append(Middleware(LocalOnly, refused=observer.refused))
    if api_key is not None:
        middleware.append(Middleware(KeyRequired, key=api_key, refused=observer.refused))
    app = Starlette(
        routes=[
            route("/v1/chat/completions", chat_completions, "POST"),
            route("/v1/completions", completions, "POST"),
            route("/v1/models", list_models),
            route("/v1/models/{name:path}", one_model),
            route("/health", health),
            route("/ready", ready),
            route("/cluster", cluster),
            route("/metrics", metrics),
            route("/metrics/targets", targets),
            route("/requests/{id:path}", one_request),
            route("/requests/{id:path}", cancel_request, "DELETE"),
            route("/trace", one_trace),
            route("/dashboard", page),
            route("/dashboard/", slash),
            route("/dashboard/state", state),
            route("/dashboard/{path:path}", asset),
        ],
        middleware=middleware,
        exception_handlers={
            StagelineError: partial(on_stageline_error, observer.refused),
            HTTPException: partial(on_http_exception, observer.refused),
            ClientDisconnect: on_disconnect,
            Exception: on_unexpected,
        },
    )
    app.router.redirect_slashes = False
    return app
