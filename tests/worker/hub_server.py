"""A hub on loopback, as far as huggingface_hub asks one for a repository: revision, file tree, files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """Serves the files of `directory` as repository `someone/model`; `downloads` are the files that were fetched.

    `refusal`: (status, error code) for every request.
    """

    directory: Path
    refusal: tuple[int, str] | None = None
    downloads: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serves while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if hub.refusal:
                return self.answer(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
            if path == "/api/models/someone/model/revision/main":
                return self.answer(200, json.dumps({"id": "someone/model", "sha": COMMIT}).encode())
            if path == f"/api/models/someone/model/tree/{COMMIT}":
                files = [
                    {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": f"{file.name:_<40}"}
                    for file in sorted(hub.directory.iterdir())
                ]
                return self.answer(200, json.dumps(files).encode())
            file = hub.directory / path.rpartition("/")[2]
            if path != f"/someone/model/resolve/{COMMIT}/{file.name}" or not file.exists():
                return self.answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            if self.command == "GET":
                hub.downloads.append(file.name)
            return self.answer(200, file.read_bytes(), {"ETag": f'"{file.name:_<40}"', "X-Repo-Commit": COMMIT})

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
