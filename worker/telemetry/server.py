"""The worker's HTTP server for those who watch it: `/metrics` for Prometheus, `/trace` with its last steps as JSON."""

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from worker.errors import ClusterError

LOOPBACK = "127.0.0.1"
CLOSE_SECONDS = 0.1  # at most, to notice that it is over
CLIENT_SECONDS = 10  # a client that says nothing for so long is hung up on

Answer = Callable[[], tuple[str, bytes]]  # content type and body


class MetricsServer:
    """Listens on a free port of this machine, `endpoint`, from its creation; answers in threads of its own.

    Raises ClusterError if `address` is none of this machine's.
    """

    def __init__(
        self, registry: CollectorRegistry, trace: Callable[[], dict[str, Any]], address: str = LOOPBACK
    ) -> None:
        answers: dict[str, Answer] = {
            "/metrics": lambda: (CONTENT_TYPE_PLAIN_0_0_4, generate_latest(registry)),
            "/trace": lambda: ("application/json", msgspec.json.encode(trace())),
        }
        server = _SixServer if ":" in address else ThreadingTCPServer
        try:
            self._server = server((address, 0), partial(_Handler, answers))
        except OSError as error:
            raise ClusterError(
                f"the metrics server cannot listen at {address}: {error.strerror}: that is not an address of this host "
                "now; check its `ips` in the hostfile and its network"
            ) from error
        self._server.daemon_threads = True
        shown = f"[{address}]" if ":" in address else address
        self.endpoint = f"{shown}:{self._server.server_address[1]}"
        serve = partial(self._server.serve_forever, CLOSE_SECONDS)
        threading.Thread(target=serve, name="metrics", daemon=True).start()

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


class _SixServer(ThreadingTCPServer):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    timeout = CLIENT_SECONDS

    def __init__(self, answers: dict[str, Answer], *args: Any) -> None:
        self._answers = answers
        super().__init__(*args)  # answers the request

    def handle(self) -> None:
        """One connection. Whoever asked may have gone meanwhile."""
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        """One request, one connection."""
        answer = self._answers.get(self.path.partition("?")[0])
        if answer is None:
            self.send_error(404, f"there are only {' and '.join(self._answers)}")
            return
        content_type, body = answer()
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes are not worth a line."""
