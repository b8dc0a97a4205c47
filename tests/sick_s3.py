"""A proxy in front of S3 and SQS that is sick in one way until told otherwise."""

import asyncio
from typing import Any, Literal

from aiohttp import web

from tests.storm.aws_proxy import AwsProxy
from tests.storm.journal import Journal

Sickness = Literal["none", "silent bodies", "trickling bodies", "deaf", "slow down", "refusing"]

_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
_HANG_SECONDS = 3600.0


class SickS3(AwsProxy):
    """`sickness` befalls each request of `service`, or the next `times` of them, if that is set.

    A silent body stops half-way; one that trickles brings a byte every 20 ms; who is deaf takes requests and never
    answers; `refusing` breaks connections before an answer, as nothing at all would.
    """

    def __init__(self, url: str, journal: Journal) -> None:
        super().__init__(url, journal)
        self.sickness: Sickness = "none"
        self.service: Literal["S3", "SQS"] = "S3"
        self.times: int | None = None
        self.struck = 0
        self.ranges: list[str | None] = []  # of the reads of objects

    def _befalls(self, service: str, *kinds: Sickness) -> bool:
        if service != self.service or self.sickness not in kinds or self.times == 0:
            return False
        self.times = None if self.times is None else self.times - 1
        self.struck += 1
        return True

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        service = "SQS" if "X-Amz-Target" in request.headers else "S3"
        if self._befalls(service, "refusing"):
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if self._befalls(service, "deaf"):
            await asyncio.sleep(_HANG_SECONDS)
        if self._befalls(service, "slow down"):
            return web.Response(status=503, body=_SLOW_DOWN)
        if request.method != "GET" or "list-type" in request.query or request.path.count("/") < 2:
            return await super()._handle(request)
        self.ranges.append(request.headers.get("Range"))
        answer = await self._forward(request, b"")
        if answer.status < 300 and self._befalls(service, "silent bodies", "trickling bodies"):
            return await self._drip(request, answer)
        return answer.response()

    async def _drip(self, request: web.Request, answer: Any) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.content_length = len(answer.body)
        await response.prepare(request)
        if self.sickness == "silent bodies":
            await response.write(answer.body[: len(answer.body) // 2])
            await asyncio.sleep(_HANG_SECONDS)
        for at in range(len(answer.body)):
            await response.write(answer.body[at : at + 1])
            await asyncio.sleep(0.02)
        return response
