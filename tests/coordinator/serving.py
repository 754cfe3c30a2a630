"""What the tests of the HTTP side share: a model with the tests' tokenizer, calls in memory, a real server."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from starlette.types import ASGIApp

from coordinator.api.app import create_app
from coordinator.listener import listen
from coordinator.served import ServedModel
from coordinator.serving import served_over
from coordinator.text.prompt import PromptCodec
from tests.fakes.pipeline import FakePipeline
from tests.tokenizer_files import CHAT_TEMPLATE, EOS, byte_level, save
from worker.protocol import Sampling

CONTEXT = 128
CREATED = 1_700_000_000


@cache
def codec(template: str | None = CHAT_TEMPLATE) -> PromptCodec:
    with TemporaryDirectory() as directory:
        return PromptCodec.load(save(byte_level(), Path(directory), template=template))


def model(*, template: str | None = CHAT_TEMPLATE, sampling: Sampling | None = None) -> ServedModel:
    return ServedModel(
        name="org/tiny",
        created=CREATED,
        codec=codec(template),
        context=CONTEXT,
        vocab_size=300,
        end_tokens=(EOS,),
        sampling=sampling or Sampling(),
    )


def app(pipeline: FakePipeline, *, api_key: str | None = None, **changes: Any) -> ASGIApp:
    return create_app(model=model(**changes), pipeline=pipeline, observer=pipeline.observer, api_key=api_key)


def call(app: ASGIApp, method: str, path: str, *, fails: bool = False, **options: Any) -> httpx.Response:
    """One request in memory. `fails`: the application raises; look at the response all the same."""

    async def once() -> httpx.Response:
        transport = httpx.ASGITransport(app, raise_app_exceptions=not fails)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **options)

    return asyncio.run(once())


def post(pipeline: FakePipeline, path: str, body: dict[str, Any], **options: Any) -> httpx.Response:
    return call(app(pipeline), "POST", path, json=body, **options)


@asynccontextmanager
async def server(app: ASGIApp) -> AsyncIterator[str]:
    """The address of a real server on loopback, in this event loop."""
    with listen("127.0.0.1", 0) as listener:
        async with served_over(listener, app):
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def until(condition: Callable[[], Any]) -> None:
    """Waits until `condition()` holds."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - any condition at all
            await asyncio.sleep(0.005)


def without_chance(text: str) -> str:
    """Ids and times replaced by fixed ones."""
    text = re.sub(r'"id":"(chatcmpl|cmpl)-[0-9a-f]{32}"', r'"id":"\1-1"', text)
    return re.sub(r'"created":\d{10}', '"created":1', text)
