"""GET /trace: the last steps of all stages and the requests they were for, to be opened in Perfetto."""

import asyncio
import time

import httpx
import msgspec
from starlette.requests import Request
from starlette.responses import Response

from coordinator.api.errors import json_response
from coordinator.api.generation import Backend
from coordinator.telemetry.trace import StageTrace, trace
from coordinator.view import StageView

FETCH_SECONDS = 2.0
_FILE = {"content-disposition": 'attachment; filename="stageline-trace.json"', "cache-control": "no-store"}


async def one_trace(backend: Backend, request: Request) -> Response:
    """A JSON object in Chrome's trace format; `otherData.missing` says which stages did not answer, and why."""
    stages = backend.pipeline.view().stages
    transport = httpx.AsyncHTTPTransport(verify=False)  # plain HTTP: loading certificates would take time
    async with httpx.AsyncClient(transport=transport, timeout=FETCH_SECONDS) as client:
        answers = await asyncio.gather(*(_fetch(client, stage) for stage in stages))
    names = {stage.stage: f"stage {stage.stage} (layers {stage.layers[0]}-{stage.layers[1] - 1})" for stage in stages}
    missing = {
        names[stage.stage]: answer for stage, answer in zip(stages, answers, strict=True) if isinstance(answer, str)
    }
    observer = backend.observer
    told = [answer for answer in answers if isinstance(answer, StageTrace)]
    entries = list(observer.journal.all())

    def body() -> bytes:
        events = trace(observer.anchor, entries, told, names, time.monotonic())
        other = {"began_unix": observer.anchor.unix, "missing": missing}
        return msgspec.json.encode({"traceEvents": events, "displayTimeUnit": "ms", "otherData": other})

    # many thousand events: meanwhile tokens go on
    return json_response(await backend.threads.run(body), headers=_FILE)


async def _fetch(client: httpx.AsyncClient, stage: StageView) -> StageTrace | str:
    """What the stage's worker remembers, or why it does not say."""
    if not stage.metrics:
        return f"is {stage.state}"
    try:
        answer = await client.get(f"http://{stage.metrics}/trace")
        answer.raise_for_status()
        return msgspec.json.decode(answer.content, type=StageTrace)
    except (httpx.HTTPError, msgspec.MsgspecError) as error:
        return f"does not answer: {error or type(error).__name__}"
