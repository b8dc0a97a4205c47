"""Answers of AWS that come too slowly: a request that hangs, a body that trickles, are broken off and tried again.

aiohttp's read timeout alone lets a body trickle for ever, and does not see that the other side has stopped to read.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from aiobotocore.httpsession import AIOHTTPSession
from aiobotocore.response import AioReadTimeoutError, StreamingBody
from botocore.exceptions import ReadTimeoutError

_CHUNK_BYTES = 1 << 20


def impatient_session(seconds: float, floor_bytes: int) -> type[AIOHTTPSession]:
    """The class of an HTTP session whose requests are answered in `seconds`, and a second for each `floor_bytes` sent.

    For `http_session_cls` of AioConfig. Its requests raise botocore's ReadTimeoutError, which is retried.
    """

    class Impatient(AIOHTTPSession):  # type: ignore[misc]
        async def send(self, request: Any) -> Any:
            sent_bytes = int(request.headers.get("Content-Length", 0))
            try:
                async with asyncio.timeout(seconds + sent_bytes / floor_bytes) as limit:
                    return await super().send(request)
            except TimeoutError as error:
                if not limit.expired():
                    raise
                raise ReadTimeoutError(endpoint_url=request.url, error=error) from None

    return Impatient


def watch_bodies(seconds: float, floor_bytes: int) -> Callable[..., None]:
    """A handler of botocore's event `after-call`: reading a body that trickles raises AioReadTimeoutError."""

    def watch(parsed: dict[str, Any], **_: Any) -> None:
        body = parsed.get("Body")
        if isinstance(body, StreamingBody):
            parsed["Body"] = _Watched(body.__wrapped__, parsed.get("ContentLength"), seconds, floor_bytes)

    return watch


class _Watched(StreamingBody):  # type: ignore[misc]
    """A body that must bring at least `floor_bytes` for each second that its reader has waited, `seconds` at a time.

    Only the waiting counts: a reader may take its time between two reads.
    """

    def __init__(self, raw: Any, content_length: Any, seconds: float, floor_bytes: int) -> None:
        super().__init__(raw, content_length)
        self._self_seconds = seconds
        self._self_floor_bytes = floor_bytes
        self._self_waited = 0.0
        self._self_bytes = 0

    async def read(self, amt: int | None = None) -> bytes:
        if amt is None:
            pieces = []
            while piece := await self.read(_CHUNK_BYTES):
                pieces.append(piece)
            return b"".join(pieces)
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        chunk: bytes = await super().read(amt)
        self._self_waited += loop.time() - asked_at
        self._self_bytes += len(chunk)
        if self._self_waited >= self._self_seconds:
            self._check()
        return chunk

    def _check(self) -> None:
        waited, came = self._self_waited, self._self_bytes
        self._self_waited, self._self_bytes = 0.0, 0
        if came < waited * self._self_floor_bytes and not self.__wrapped__.content.at_eof():
            why = f"only {came} bytes in {waited:.0f} s"
            raise AioReadTimeoutError(endpoint_url=self.__wrapped__.url, error=why)
