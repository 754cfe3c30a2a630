"""Ports that are free, taken, or held by a cluster that runs."""

import http.server
import socket
import threading

import pytest

from coordinator.doctor.ports import ports, serves, try_port

HTTP = ("127.0.0.1", 8000)


def test_free_ports():
    finding = ports({HTTP: "", ("10.0.0.1", 8011): ""}, False, HTTP)
    assert (finding.level, finding.found) == ("ok", "127.0.0.1 port 8000 is free; 10.0.0.1 port 8011 is free")


@pytest.mark.parametrize(("ours", "level"), [(True, "ok"), (False, "fail")])
def test_a_taken_http_port(ours, level):
    finding = ports({HTTP: "Address already in use"}, ours, HTTP)
    assert finding.level == level
    assert ("--port" in finding.fix and "lsof -i :8000" in finding.fix) == (level == "fail")


def test_a_taken_control_port():
    finding = ports({HTTP: "", ("10.0.0.1", 8011): "Address already in use"}, True, HTTP)
    assert finding.level == "fail"
    assert "--control" in finding.fix
    assert "lsof -i :8011" in finding.fix


def test_an_address_that_up_refuses():
    finding = ports({}, False, ("0.0.0.0", 8000), "--host 0.0.0.0 lets other machines in: ...")
    assert (finding.level, finding.found) == ("fail", "`up` refuses: --host 0.0.0.0 lets other machines in: ...")
    assert "STAGELINE_API_KEY" in finding.fix


def test_ports_are_really_tried():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert "in use" in try_port("127.0.0.1", port)
    assert try_port("127.0.0.1", port) == ""
    assert not serves("127.0.0.1", port)


@pytest.mark.parametrize(("body", "ours"), [(b'{"status":"ok"}', True), (b"hello", False)])
def test_who_serves_is_asked(body, ours):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body if self.path == "/health" else b"")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            assert serves("127.0.0.1", server.server_port) is ours
        finally:
            server.shutdown()
            thread.join()
