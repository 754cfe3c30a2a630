"""What is said of the way to a host that stops answering."""

import threading
import time

import pytest
import zmq

from worker.agent import round_trips as module
from worker.agent.messages import Peer
from worker.agent.round_trips import round_trips


def answering(socket: "zmq.Socket[bytes]", times: int) -> None:
    for _ in range(times):
        if not socket.poll(5000):
            return
        socket.send_multipart(socket.recv_multipart())


def test_the_first_lost_message_ends_the_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of the others would be waited for as long."""
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.5)
    with zmq.Context() as context, context.socket(zmq.ROUTER) as echo:
        echo.setsockopt(zmq.LINGER, 0)
        port = echo.bind_to_random_port("tcp://127.0.0.1")
        thread = threading.Thread(target=answering, args=(echo, 1 + 3))  # the first one opens the way
        thread.start()
        began = time.monotonic()
        (trip,) = round_trips(context, [Peer(name="two", echo=f"tcp://127.0.0.1:{port}", key="")], None)
        took = time.monotonic() - began
        thread.join()
    assert trip.seconds == 0
    assert trip.problem == f"tcp://127.0.0.1:{port} did not answer message 4 of 20 within 0.5 s: check the network"
    assert took < 2
