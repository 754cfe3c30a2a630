"""A coordinator that answers from a script, on a real socket, so that the client side is tested on its own."""

import json
import threading
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from coordinator.view import ClusterView, StageView

EVENTS = "text/event-stream"


@dataclass
class Answer:
    """`pieces` are sent one by one; with `hold` the connection then stays open until the client goes away."""

    pieces: Iterable[bytes]
    status: int = 200
    kind: str = "application/json"
    hold: bool = False


@dataclass
class Scripted:
    """`answers` maps "METHOD /path" to what is said there, in turn; the last one is repeated."""

    url: str
    answers: dict[str, list[Answer]]
    bodies: list[Any] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)


def as_json(value: Any, status: int = 200) -> Answer:
    """A JSON answer."""
    return Answer([json.dumps(value).encode()], status)


def as_error(message: str, status: int) -> Answer:
    """An answer with an error in OpenAI's shape."""
    return as_json({"error": {"message": message, "type": "t", "param": None, "code": "c"}}, status)


def as_events(*events: str, hold: bool = False) -> Answer:
    """A stream of events, each written as its lines."""
    return Answer([f"{event}\n\n".encode() for event in events], kind=EVENTS, hold=hold)


def chat_piece(text: str) -> str:
    """One event of a streamed chat."""
    return "data: " + json.dumps({"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]}, ensure_ascii=False)


def chat_answer(*texts: str) -> Answer:
    """A whole streamed chat as a coordinator sends it, with role, finish reason and usage."""
    role = 'data: {"id": "x", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": null}]}'
    end = 'data: {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}'
    usage = 'data: {"id": "x", "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}'
    return as_events(role, ": keep-alive", *map(chat_piece, texts), end, usage, "data: [DONE]")


def view(cluster: str = "ready", /, **changed: Any) -> ClusterView:
    """A cluster of two stages; `changed` are fields of the second."""
    stages = tuple(
        StageView(
            **{
                "stage": number,
                "layers": (7 * number, 7 * number + 7 - number),
                "pattern": ("MEMEM*E", "MEMEM*")[number],
                "host": "mini-4",
                "backend": "metal",
                "pid": 4000 + number,
                "state": "ready",
                "memory_bytes": 21_300_000_000,
                "loaded_bytes": 21_000_000_000,
                "total_bytes": 21_000_000_000,
                "fused_layers": 7,
                "state_bytes": 0,
                "sequences": 0,
                "steps": 12,
                "stale_messages": 0,
                "duplicate_messages": 0,
                "restarts": 0,
                "step_seconds": 0.0,
                **(changed if number == 1 else {}),
            }
        )
        for number in range(2)
    )
    return ClusterView(state=cluster, model="tiny", epoch=1, running=1, waiting=0, stages=stages)  # type: ignore[arg-type]


@contextmanager
def serving(answers: dict[str, Answer | list[Answer]]) -> Generator[Scripted]:
    """Serves `answers` and the list of one model, `tiny`, until the block is left."""
    script: dict[str, list[Answer]] = {"GET /v1/models": [as_json({"data": [{"id": "tiny"}]})]}
    script |= {place: said if isinstance(said, list) else [said] for place, said in answers.items()}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer("GET")

        def do_POST(self) -> None:
            scripted.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.answer("POST")

        def answer(self, method: str) -> None:
            scripted.keys.append(self.headers["Authorization"])
            answers = scripted.answers[f"{method} {self.path}"]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(answer.status)
            self.send_header("Content-Type", answer.kind)
            self.end_headers()
            try:
                for piece in answer.pieces:
                    self.wfile.write(piece)
                    self.wfile.flush()
                if answer.hold:
                    self.rfile.read(1)  # b"" as soon as the client closes
                    scripted.left.set()
            except ConnectionError:
                scripted.left.set()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    scripted = Scripted(f"http://127.0.0.1:{server.server_address[1]}", script)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield scripted
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
