"""A failed job reaches a person's chat, on a real grid, in the steps that a person takes."""

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.cases.conftest import CaseGrid


@dataclass
class Chat:
    """An HTTP server that takes what Slack's incoming webhooks take, and nothing else."""

    url: str = ""
    texts: list[str] = field(default_factory=list)
    came: threading.Condition = field(default_factory=threading.Condition)

    def take(self, body: dict[str, Any]) -> int:
        if set(body) != {"text"} or not isinstance(body["text"], str):
            return 400
        with self.came:
            self.texts.append(body["text"])
            self.came.notify_all()
        return 200

    def wait_for(self, text: str) -> str:
        """The first message that has this in it."""

        def found() -> str | None:
            return next((each for each in self.texts if text in each), None)

        with self.came:
            message = self.came.wait_for(found, timeout=60)
        assert message, f"nobody wrote {text!r}, but {self.texts}"
        return message


@pytest.fixture
def chat() -> Iterator[Chat]:
    chat = Chat()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(chat.take(body))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        chat.url = f"http://127.0.0.1:{server.server_address[1]}/services/T0/B0/secret"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield chat
        server.shutdown()
        thread.join()


def test_a_failed_job_is_told_in_a_chat(grid: CaseGrid, chat: Chat) -> None:
    grid.client.register_processor("case-breaks", {"command": ["sh", "-c", "test -e {input}.never"]})
    grid.command("alerts", "create", "case", "--job-name", "case-orders", "--on", "failed", "--slack", chat.url)
    assert grid.command("alerts", "test", "case") == "delivered\n"
    assert chat.wait_for("trial message").startswith("*case: test*\n")

    ended = grid.run(
        {"type": "range", "count": 1}, {"processor": "case-breaks", "retry": {"max_attempts": 1}}, name="case-orders"
    )

    assert ended.state == "failed"
    assert chat.wait_for("case-orders failed: ").startswith("*case: failed: case-orders*\n")
    listed = json.loads(grid.command("alerts", "incidents", "case", "--open", "--json"))
    [incident] = listed["items"]
    assert incident["job_id"] == ended.job["job_id"] and incident["told_at"]
    messages = json.loads(grid.command("alerts", "messages", "case", "--json"))["items"]
    assert {message["state"] for message in messages} == {"delivered"}
    assert "secret" not in grid.command("alerts", "show", "case", "--json")
    grid.command("alerts", "delete", "case")
