"""An HTTP proxy in front of S3 and SQS that throttles, fails, hangs, tears bodies, and loses and doubles messages.

A fault is armed for a number of requests and strikes the next ones that it can befall. It passes after a while, so that
a few requests are not struck by all that was meant for many; but each kind waits until it has struck once.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from aiohttp import ClientSession, ClientTimeout, TCPConnector, web
from multidict import CIMultiDict
from yarl import URL

from tests.storm.journal import Journal

KINDS = (
    *(
        f"{service} {fault}"
        for service in ("S3", "SQS")
        for fault in ("throttled", "failed", "reply lost", "timed out")
    ),
    "S3 read torn",
    "messages dropped",
    "messages sent twice",
)

_PASSES_SECONDS = 2.0
_HANG_SECONDS = 2.0  # then the connection breaks
_BODY_BYTES_MAX = 1 << 26
_NOT_FORWARDED = ("expect", "connection", "transfer-encoding")
_ERRORS = {
    "S3 throttled": (503, b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"),
    "S3 failed": (500, b"<Error><Code>InternalError</Code><Message>Please try again.</Message></Error>"),
    "SQS throttled": (400, b'{"__type": "com.amazonaws.sqs#RequestThrottled", "message": "Rate exceeded"}'),
    "SQS failed": (500, b'{"__type": "com.amazonaws.sqs#InternalError", "message": "Please try again"}'),
}


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def response(self) -> web.Response:
        return web.Response(status=self.status, headers=self.headers, body=self.body)


class AwsProxy:
    """Listens on a port of this machine in front of the endpoint `url`."""

    def __init__(self, url: str, journal: Journal) -> None:
        self._target = url
        self._journal = journal
        self._armed: Counter[str] = Counter()
        self._passes_at: dict[str, float] = {}

    async def start(self) -> None:
        self._client = ClientSession(
            connector=TCPConnector(limit=0), timeout=ClientTimeout(total=None), auto_decompress=False
        )
        app = web.Application(client_max_size=_BODY_BYTES_MAX)
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()
        await self._client.close()

    def credentials(self, service: str) -> dict[str, str]:
        """What a service must have in its environment, where it matters who asks."""
        return {}

    def arm(self, kind: str, requests: int) -> None:
        self._armed[kind] = requests
        self._passes_at[kind] = time.monotonic() + _PASSES_SECONDS

    def _strikes(self, kind: str, what: str) -> bool:
        """Whether an armed fault of this kind befalls this request; then it is armed for one less."""
        if self._armed[kind] == 0:
            return False
        if time.monotonic() > self._passes_at[kind] and self._journal.struck[kind]:
            self._armed[kind] = 0
            return False
        self._armed[kind] -= 1
        self._journal.strike(kind, request=what)
        return True

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        try:
            body = await request.read()
        except ConnectionError:  # whoever asked has been killed
            return web.Response()
        operation = request.headers.get("X-Amz-Target", "").removeprefix("AmazonSQS.")
        service, what = ("SQS", operation) if operation else ("S3", f"{request.method} {request.path_qs}")
        for kind in (f"{service} throttled", f"{service} failed"):
            if self._strikes(kind, what):
                status, error = _ERRORS[kind]
                return web.Response(status=status, body=error)
        if self._strikes(f"{service} timed out", what):
            await asyncio.sleep(_HANG_SECONDS)
            return _break_off(request, web.Response())
        if operation == "SendMessageBatch":
            return (await self._send(request, body)).response()
        answer = await self._forward(request, body)
        if self._strikes(f"{service} reply lost", what):
            return web.Response(status=504)
        if _is_read(request, answer) and self._strikes("S3 read torn", what):
            return await _tear(request, answer)
        return answer.response()

    async def _send(self, request: web.Request, body: bytes) -> _Answer:
        """Send a batch of messages: as it is, twice, or without its second half, of which nobody is told."""
        batch = orjson.loads(body)
        if self._strikes("messages sent twice", "SendMessageBatch"):
            await self._forward(request, body)
        elif self._strikes("messages dropped", "SendMessageBatch"):
            dropped = [batch["Entries"].pop() for _ in range((len(batch["Entries"]) + 1) // 2)]
            taken = [{"Id": entry["Id"], "MessageId": "dropped", "MD5OfMessageBody": ""} for entry in dropped]
            answer: dict[str, list[dict[str, str]]] = {"Successful": [], "Failed": []}
            if batch["Entries"]:
                answer |= orjson.loads((await self._forward(request, orjson.dumps(batch))).body)
            answer["Successful"] += taken
            return _Answer(200, {"Content-Type": "application/x-amz-json-1.0"}, orjson.dumps(answer))
        return await self._forward(request, body)

    async def _forward(self, request: web.Request, body: bytes) -> _Answer:
        headers = _forwarded(request.headers)
        headers["Content-Length"] = str(len(body))
        async with self._client.request(
            request.method,
            URL(f"{self._target}{request.raw_path}", encoded=True),
            headers=headers,
            data=body,
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
        ) as answer:
            return _Answer(answer.status, _forwarded(answer.headers), await answer.read())


def _forwarded(headers: Mapping[str, str]) -> CIMultiDict[str]:
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in _NOT_FORWARDED)


def _is_read(request: web.Request, answer: _Answer) -> bool:
    """Whether this is the answer to a GetObject, with a body that can be torn."""
    return request.method == "GET" and "ETag" in answer.headers and answer.status < 300 and len(answer.body) > 1


async def _tear(request: web.Request, answer: _Answer) -> web.StreamResponse:
    """Half the body, then the connection's end."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = len(answer.body)
    await response.prepare(request)
    await response.write(answer.body[: len(answer.body) // 2])
    return _break_off(request, response)


def _break_off(request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.close()
    return response
