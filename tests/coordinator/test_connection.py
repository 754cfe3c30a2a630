"""The HTTP server below its requests: connections that send none, and what is no HTTP."""

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest

from coordinator import connection
from tests.coordinator.serving import app, server
from tests.fakes.pipeline import FakePipeline, Pause, spell

HEALTH = b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"


@asynccontextmanager
async def connected(url):
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def answered(reader):
    """The body of the next response."""
    head = await reader.readuntil(b"\r\n\r\n")
    return await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split()[0]))


@pytest.mark.parametrize(
    ("first", "after"),
    [(b"", b""), (b"GET / HT", b""), (b"GET / HTTP/1.1\r\nX: ", b"a"), (HEALTH, b"a")],
    ids=["nothing", "half a line", "a header without end", "a second one without end"],
)
def test_whoever_sends_no_whole_header_in_time_is_hung_up_on(monkeypatch, first, after):
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.2)

    async def scenario():
        async with server(app(FakePipeline([]))) as url, connected(url) as (reader, writer):
            writer.write(first)
            if first.startswith(HEALTH):
                assert await answered(reader) == b'{"status":"ok"}'
            for _ in range(20):
                writer.write(after)
                await asyncio.sleep(0.05)
                if reader.at_eof():
                    return True
            return False

    assert asyncio.run(scenario())


def test_a_request_takes_longer_than_a_header_may(monkeypatch):
    monkeypatch.setattr(connection, "HEADER_SECONDS", 0.4)
    pipeline = FakePipeline([Pause(0.6), *spell("ab")])

    async def slowly():
        body = b'{"prompt": "hi"}'
        for at in range(len(body)):
            await asyncio.sleep(0.04)
            yield body[at : at + 1]

    async def scenario():
        async with server(app(pipeline)) as url, httpx.AsyncClient(base_url=url, trust_env=False) as client:
            for _ in range(2):  # the second one on the same connection
                answer = await client.post("/v1/completions", content=slowly())
                assert answer.status_code == 200
                assert answer.json()["choices"][0]["text"] == "ab"

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "request_",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /health HTTP/1.1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: here\r\nno colon\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=["first line", "no host", "header", "length", "chunk", "TLS"],
)
def test_what_is_no_http_is_refused_in_the_shape_of_every_error(request_):
    async def scenario():
        async with server(app(FakePipeline([]))) as url, connected(url) as (reader, writer):
            writer.write(HEALTH)
            await answered(reader)
            writer.write(request_)
            head = await reader.readuntil(b"\r\n\r\n")
            return head, await reader.read()

    head, body = asyncio.run(scenario())
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"content-type: application/json\r\n" in head
    error = json.loads(body)["error"]
    assert "not valid HTTP/1.1" in error["message"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "invalid_request")
