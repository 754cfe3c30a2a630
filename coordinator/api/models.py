"""GET /v1/models: the one model that is served."""

from typing import Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.errors import json_response
from coordinator.api.generation import Backend
from coordinator.api.job import check_model
from coordinator.served import ServedModel


class ModelCard(msgspec.Struct, frozen=True):
    """A model as clients list it; `max_model_len`, the context in tokens, is vLLM's addition."""

    id: str
    created: int
    max_model_len: int
    object: Literal["model"] = "model"
    owned_by: str = "stageline"


class ModelList(msgspec.Struct, frozen=True):
    """All models."""

    data: tuple[ModelCard, ...]
    object: Literal["list"] = "list"


async def list_models(backend: Backend, request: Request) -> Response:
    """All models served here."""
    return json_response(msgspec.json.encode(ModelList((_card(backend.model),))))


async def one_model(backend: Backend, request: Request) -> Response:
    """One model by its name, which may contain slashes."""
    check_model(backend.model, request.path_params["name"])
    return json_response(msgspec.json.encode(_card(backend.model)))


def _card(model: ServedModel) -> ModelCard:
    return ModelCard(model.name, model.created, model.context)
