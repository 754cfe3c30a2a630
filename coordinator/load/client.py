"""Sends a planned load to an OpenAI-compatible server and sees what comes back."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import httpx
import msgspec

from coordinator.client import authorization
from coordinator.load.plan import Planned
from coordinator.load.report import Seen
from coordinator.server_events import EventParser
from worker.errors import ClusterError, UserError

TIMEOUT = httpx.Timeout(30.0, read=600.0)
REJECTED = (429, 503)


class _Choice(msgspec.Struct):
    text: str = ""
    token_ids: list[int] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Piece(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class LoadClient:
    """A client of the server at `url`, for requests to `/v1/completions`. Use `async with`.

    `ours`: the server is a coordinator, so prompts are ids and answers are as long as planned; other servers get words
    and may end an answer early.
    """

    def __init__(self, url: str, *, model: str, api_key: str | None, ours: bool, concurrency: int) -> None:
        headers = authorization(api_key)
        limits = httpx.Limits(max_connections=concurrency)
        # a transport of its own: no proxy of the environment stands between
        transport = httpx.AsyncHTTPTransport(limits=limits)
        self._http = httpx.AsyncClient(base_url=url, headers=headers, timeout=TIMEOUT, transport=transport)
        self._model = model
        self._ours = ours
        self._turns = asyncio.Semaphore(concurrency)

    async def __aenter__(self) -> "LoadClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def run(self, planned: Sequence[Planned]) -> list[Seen]:
        """Sends every request at its time, or as soon after it as the concurrency allows."""
        start = time.perf_counter()

        async def one(request: Planned) -> Seen:
            await asyncio.sleep(request.at - (time.perf_counter() - start))
            async with self._turns:
                return await self._send(request)

        return await asyncio.gather(*(one(request) for request in planned))

    async def _send(self, request: Planned) -> Seen:
        body = msgspec.json.encode(self._body(request))
        headers = {"Content-Type": "application/json"}
        sent = time.perf_counter()
        answered = False
        try:
            async with self._http.stream("POST", "/v1/completions", content=body, headers=headers) as response:
                answered = True
                if response.status_code != 200:
                    await response.aread()
                    outcome = "rejected" if response.status_code in REJECTED else "failed"
                    refused = outcome == "failed" and 400 <= response.status_code < 500
                    seconds = time.perf_counter() - sent
                    return Seen(outcome=outcome, refused=refused, reason=_reason(response), seconds=seconds)
                return await _read(response, sent)
        except httpx.HTTPError as error:
            reason = f"{type(error).__name__}: {error}".removesuffix(": ")
            # a server that refuses a long body closes the connection under it, and its answer is lost
            if not answered and isinstance(error, (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)):
                reason += (
                    f" (the server closed the connection before it answered a request of {len(body)} bytes; if that is "
                    "more than it takes, ask for fewer --prompt-tokens)"
                )
            return Seen(outcome="failed", reason=reason, seconds=time.perf_counter() - sent)

    def _body(self, request: Planned) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": request.token_ids() if self._ours else request.text(),
            "max_tokens": request.answer_tokens,
            "temperature": 1.0,
            "seed": request.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        return {**body, "ignore_eos": True, "return_token_ids": True} if self._ours else body


async def server_of(url: str, api_key: str | None) -> tuple[str, bool]:
    """The model that the server at `url` names first, and whether it is a coordinator.

    Raises UserError if it refuses the key, ClusterError if it does not answer like an OpenAI-compatible server.
    """
    headers = authorization(api_key)
    async with httpx.AsyncClient(headers=headers, timeout=TIMEOUT, transport=httpx.AsyncHTTPTransport()) as http:
        try:
            models = await http.get(f"{url}/v1/models")
            if models.status_code in (401, 403):
                raise UserError(f"{url} answered {_reason(models)} (pass --api-key or set STAGELINE_API_KEY)")
            ours = (await http.get(f"{url}/cluster")).status_code == 200
            models.raise_for_status()
            return models.json()["data"][0]["id"], ours
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, LookupError, TypeError) as error:
            raise ClusterError(
                f"{url} does not answer like an OpenAI-compatible server ({error or type(error).__name__}): is it "
                "running, and is this the address without /v1?"
            ) from error


async def _read(response: httpx.Response, sent: float) -> Seen:
    parser = EventParser()
    arrivals: list[float] = []
    tokens = 0
    usage: _Usage | None = None
    async for data in response.aiter_bytes():
        now = time.perf_counter() - sent
        for event in parser.feed(data):
            if event.event == "error":
                return Seen(outcome="failed", reason=event.data[:200], seconds=now)
            if event.data == "[DONE]":
                prompt, answer = (usage.prompt_tokens, usage.completion_tokens) if usage else (0, tokens)
                return Seen(
                    outcome="done",
                    prompt_tokens=prompt,
                    answer_tokens=answer,
                    arrivals=tuple(arrivals),
                    seconds=now,
                )
            try:
                piece = msgspec.json.decode(event.data, type=_Piece)
            except msgspec.MsgspecError as error:
                return Seen(outcome="failed", reason=f"no completion in the stream: {error}", seconds=now)
            usage = piece.usage or usage
            if any(choice.text or choice.token_ids for choice in piece.choices):
                arrivals.append(now)
                tokens += 1
    return Seen(outcome="failed", reason="the stream ended before its end", seconds=time.perf_counter() - sent)


def _reason(response: httpx.Response) -> str:
    try:
        message = response.json()["error"]["message"]
    except (ValueError, LookupError, TypeError):
        message = response.text[:200]
    return f"{response.status_code}: {message}"
