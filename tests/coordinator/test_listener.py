import asyncio
import socket

import pytest

from coordinator.listener import listen
from worker.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_what_is_sent_to_a_client_never_waits_for_an_acknowledgement(host: str) -> None:
    async def accepted() -> int:
        options: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            options.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        with listen(host, 0) as listener:
            port = listener.getsockname()[1]
            async with await asyncio.start_server(take, sock=listener):
                _, writer = await asyncio.open_connection(host.strip("[]"), port)
                writer.close()
                return await options

    assert asyncio.run(accepted())


def test_a_taken_port_is_named_with_the_way_out() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}.*--port 0"):
            listen("127.0.0.1", port)
