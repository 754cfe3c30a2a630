import asyncio

import pytest
import zmq

from worker.agent.address import Endpoint, parse_tcp
from worker.agent.greeting import mechanism


@pytest.mark.parametrize("asked", ["CURVE", "NULL", "PLAIN"])
def test_a_socket_says_what_it_asks_of_its_peers(asked: str) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        if asked == "CURVE":
            socket.setsockopt(zmq.CURVE_SECRETKEY, zmq.curve_keypair()[1])
            socket.setsockopt(zmq.CURVE_SERVER, 1)
        elif asked == "PLAIN":
            socket.setsockopt(zmq.PLAIN_SERVER, 1)
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        assert asyncio.run(mechanism(Endpoint("127.0.0.1", port))) == asked


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(64)])
def test_what_is_no_zeromq_socket_says_nothing(answer: bytes) -> None:
    async def ask() -> str | None:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            return await mechanism(parse_tcp(f"tcp://{host}:{port}"))

    assert asyncio.run(ask()) is None


def test_where_nobody_listens_nothing_is_said() -> None:
    assert asyncio.run(mechanism(Endpoint("127.0.0.1", 9))) is None
