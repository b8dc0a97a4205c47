"""The credentials of an instance's role are there although its metadata service is busy when the node boots."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson
import pytest

from services.platform import aws

ROLE = "/latest/meta-data/iam/security-credentials/"
ANSWERS: dict[str, Any] = {
    ROLE: b"worker",
    f"{ROLE}worker": orjson.dumps(
        {
            "Code": "Success",
            "AccessKeyId": "AKIA",
            "SecretAccessKey": "secret",
            "Token": "token",
            "Expiration": "2100-01-01T00:00:00Z",
        }
    ),
}


class Metadata(BaseHTTPRequestHandler):
    """IMDSv2, which answers 503 at first."""

    refusals = 3

    def do_PUT(self) -> None:
        self._answer(b"a session's token")

    def do_GET(self) -> None:
        self._answer(ANSWERS[self.path])

    def _answer(self, body: bytes) -> None:
        is_busy = Metadata.refusals > 0
        Metadata.refusals -= is_busy
        self.send_response(503 if is_busy else 200)
        self.end_headers()
        self.wfile.write(b"" if is_busy else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def on_an_instance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    aws._session.cache_clear()
    yield
    aws._session.cache_clear()
    server.shutdown()
    server.server_close()


@pytest.mark.usefixtures("on_an_instance")
async def test_an_instance_gets_its_roles_credentials_from_a_busy_service() -> None:
    credentials, _ = await aws.find_credentials()

    assert (credentials.access_key, credentials.token) == ("AKIA", "token")
