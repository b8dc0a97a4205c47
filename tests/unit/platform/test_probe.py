"""The probe of the image's HEALTHCHECK asks the service that runs in the container, and no other port."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.platform import probe
from tests.conftest import free_port


@contextmanager
def answering(status: int) -> Iterator[int]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"database: away")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "fault"), [(200, None), (503, "/readyz at port {port} answers 503: b'database: away'")]
)
def test_the_service_that_listens_is_asked(monkeypatch: pytest.MonkeyPatch, status: int, fault: str | None) -> None:
    with answering(status) as port:
        monkeypatch.setattr(probe, "probes", lambda: [(free_port(), "/readyz"), (port, "/readyz")])
        assert probe.find_fault() == (fault and fault.format(port=port))


def test_a_container_in_which_nothing_listens_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr(probe, "probes", lambda: [(port, "/readyz")])
    assert probe.find_fault() == f"no service answers at any of the ports {port}"


def test_the_ports_are_those_of_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIECEWORK_HEALTH_PORT", "9000")
    assert probe.probes() == [(8000, "/readyz"), (8001, "/readyz"), (9000, "/healthz")]
