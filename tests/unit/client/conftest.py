"""A scripted service on a real port: the client's tests say what it answers and see what was asked."""

import json
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import uvicorn
from typer.testing import CliRunner, Result

from piecework import Client, transport
from piecework.cli import app

KEY = "pw_test"


@dataclass
class Asked:
    """A request as the service saw it."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    content: bytes

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass
class Answer:
    """`hang_up_after`: close the connection after this number of bytes of the content, 0 for before any answer."""

    status: int = 200
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    hang_up_after: int | None = None


Script = Answer | Callable[[Asked], Answer]


def answer(body: Any = None, status: int = 200, **headers: str) -> Answer:
    content = b"" if body is None else json.dumps(body).encode()
    return Answer(status, content, {"content-type": "application/json", **headers})


def problem(status: int, detail: str = "", errors: list[dict[str, Any]] | None = None, **headers: str) -> Answer:
    body = {"type": "about:blank", "title": f"Title {status}", "status": status, "detail": detail, "errors": errors}
    return Answer(status, json.dumps(body).encode(), {"content-type": "application/problem+json", **headers})


def lines(*values: Any) -> Answer:
    content = b"".join(json.dumps(value).encode() + b"\n" for value in values)
    return Answer(200, content, {"content-type": "application/x-ndjson"})


HANG_UP = Answer(hang_up_after=0)


class Service:
    """Answers each route by its script: one answer after the other, the last one again and again."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self._scripts: dict[tuple[str, str], list[Script]] = defaultdict(list)
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def forget(self) -> None:
        self.asked.clear()
        self._scripts.clear()

    def on(self, method: str, path: str, *scripts: Script) -> None:
        self._scripts[method, path] = list(scripts)

    def scripts(self, method: str, path: str) -> list[Script]:
        return list(self._scripts[method, path])

    def requests(self, method: str, path: str) -> list[Asked]:
        return [asked for asked in self.asked if (asked.method, asked.path) == (method, path)]

    def start(self) -> None:
        self._socket.listen()  # who connects before the server runs waits for it
        # Who has been hung up on may still be waited for.
        config = uvicorn.Config(
            self, log_level="critical", lifespan="off", date_header=False, timeout_graceful_shutdown=1
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        content = b""
        while True:
            message = await receive()
            content += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        asked = Asked(scope["method"], scope["path"], parse_qs(scope["query_string"].decode()), headers, content)
        self.asked.append(asked)
        scripts = self._scripts[asked.method, asked.path]
        script = scripts.pop(0) if len(scripts) > 1 else scripts[0] if scripts else problem(404, f"no {asked.path}")
        reply = script if isinstance(script, Answer) else script(asked)
        if reply.hang_up_after != 0:
            await self._send(reply, send)
        if reply.hang_up_after is not None:
            for connection in self._server.server_state.connections:
                if connection.client == tuple(scope["client"]):
                    connection.transport.close()

    async def _send(self, reply: Answer, send: Any) -> None:
        headers = {"content-length": str(len(reply.content)), **reply.headers}
        encoded = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": encoded})
        await send({"type": "http.response.body", "body": reply.content[: reply.hang_up_after], "more_body": True})
        if reply.hang_up_after is None:
            await send({"type": "http.response.body"})


@pytest.fixture(scope="session")
def running_service() -> Iterator[Service]:
    service = Service()
    service.start()
    yield service
    service.stop()


@pytest.fixture
def service(running_service: Service) -> Service:
    """The service, without any script and memory of the tests before."""
    running_service.forget()
    return running_service


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.001)


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No profile, no contexts and no environment of whoever runs the tests."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("PIECEWORK_API_URL", "PIECEWORK_STATS_URL", "PIECEWORK_API_KEY", "PIECEWORK_CONTEXT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def client(service: Service) -> Iterator[Client]:
    with Client(service.url, KEY, stats_url=service.url) as client:
        yield client


Run = Callable[..., Result]


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `piecework` against the service."""
    monkeypatch.setenv("PIECEWORK_API_URL", service.url)
    monkeypatch.setenv("PIECEWORK_STATS_URL", service.url)
    monkeypatch.setenv("PIECEWORK_API_KEY", KEY)

    def run(*arguments: str, input: str | None = None, env: dict[str, str] | None = None) -> Result:
        return CliRunner(env=env).invoke(app, arguments, input=input, catch_exceptions=False)

    return run
