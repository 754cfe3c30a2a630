"""Many streamed answers at once, as one client sees them."""

import asyncio
import json
import time
from itertools import pairwise

import httpx


def body(prompt, max_tokens, **fields):
    settings = {"temperature": 0, "ignore_eos": True, "stream": True, "return_token_ids": True}
    return {"prompt": prompt, "max_tokens": max_tokens} | settings | fields


class Answer:
    """One streamed answer: when its tokens came, which they were, how it ended."""

    def __init__(self):
        self.times, self.tokens, self.finishes, self.status, self.retry_after = [], [], [], None, None

    @property
    def gaps(self):
        return [later - earlier for earlier, later in pairwise(self.times)]

    async def read(self, client, url, request, after=0.0):
        await asyncio.sleep(after)
        async with client.stream("POST", f"{url}/v1/completions", json=request) as response:
            self.status = response.status_code
            self.retry_after = response.headers.get("retry-after")
            async for line in response.aiter_lines():
                if not line.startswith("data: {"):
                    continue
                data = json.loads(line.removeprefix("data: "))
                if "error" in data:
                    self.finishes.append(data["error"]["code"])
                    continue
                for choice in data["choices"]:
                    ids = choice.get("token_ids") or []
                    self.tokens += ids
                    self.times += [time.monotonic()] * len(ids)
                    if choice.get("finish_reason"):
                        self.finishes.append(choice["finish_reason"])
        return self


def serve(url, requests, delays=None, meanwhile=None):
    """All requests at once, or each after its delay; `meanwhile` runs beside them."""

    async def all_of_them():
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(timeout=60, limits=limits, trust_env=False) as client:
            after = delays or [0.0] * len(requests)
            answers = [Answer() for _ in requests]
            reading = [
                asyncio.create_task(answer.read(client, url, request, delay))
                for answer, request, delay in zip(answers, requests, after, strict=True)
            ]
            if meanwhile is not None:
                await meanwhile(answers)
            await asyncio.gather(*reading)
            return answers

    return asyncio.run(all_of_them())


async def until(condition):
    while not condition():  # noqa: ASYNC110 - any condition at all
        await asyncio.sleep(0.005)


def settled(cluster):
    """Nothing of any request is left anywhere."""
    deadline = time.monotonic() + 5
    while True:
        view = cluster.cluster()
        held = [(stage["sequences"], stage["state_bytes"]) for stage in view["stages"]]
        if not any(map(any, held)) and (view["running"], view["waiting"]) == (0, 0):
            return
        assert time.monotonic() < deadline, view
        time.sleep(0.05)
