"""An S3 endpoint of things too large to be stored: an object of any size, and any number of keys, made when asked for.

It knows what splitters ask: HEAD, ranged GETs with If-Match, and ListObjectsV2 with Prefix, StartAfter and MaxKeys.
"""

import asyncio
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from xml.sax.saxutils import escape

from aiohttp import web

ETAG = '"vast"'
LINES = b"".join(b"%d,%s\n" % (length, b"x" * length) for length in range(60, 190, 3))  # again and again
_PAGE_KEYS = 1000
_HOST = "127.0.0.1"


class Keys(Sequence[str]):
    """Keys in order, none of them stored."""

    def __init__(self, prefix: str, count: int) -> None:
        self._prefix = prefix
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        return f"{self._prefix}{index:09d}.jsonl"


class VastS3:
    """Serves from this event loop; `read` counts the bytes of objects, `requests` what was asked."""

    def __init__(self, object_bytes: int, keys: Keys, seconds: float = 0.0) -> None:
        """Each answer takes this many seconds: S3's latency, which a local emulator lacks."""
        self.url = ""
        self.read = 0
        self.requests: Counter[str] = Counter()
        self._bytes = object_bytes
        self._keys = keys
        self._seconds = seconds
        self._runner = web.AppRunner(self._application(), access_log=None)

    def _application(self) -> web.Application:
        application = web.Application()
        application.router.add_get("/{bucket}", self._list, allow_head=False)
        application.router.add_head("/{bucket}/{key:.+}", self._head)
        application.router.add_get("/{bucket}/{key:.+}", self._get, allow_head=False)
        return application

    async def start(self) -> None:
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, 0)
        await site.start()
        self.url = f"http://{_HOST}:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _head(self, request: web.Request) -> web.Response:
        self.requests["HEAD"] += 1
        headers = {"ETag": ETAG, "Content-Length": str(self._bytes)}
        return web.Response(headers=headers)

    async def _get(self, request: web.Request) -> web.Response:
        self.requests["GET"] += 1
        await asyncio.sleep(self._seconds)
        if request.headers.get("If-Match", ETAG) != ETAG:
            return web.Response(status=412)
        first, _, last = request.headers["Range"].removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last) + 1, self._bytes)
        begin, size = start % len(LINES), end - start
        body = (LINES * (-(-(begin + size) // len(LINES))))[begin : begin + size]
        self.read += size
        headers = {"ETag": ETAG, "Content-Range": f"bytes {start}-{end - 1}/{self._bytes}"}
        return web.Response(status=206, body=body, headers=headers)

    async def _list(self, request: web.Request) -> web.Response:
        self.requests["LIST"] += 1
        await asyncio.sleep(self._seconds)
        query = request.query
        first = bisect_right(self._keys, query.get("start-after", ""))
        page = self._keys[first : first + int(query.get("max-keys", _PAGE_KEYS))]
        truncated = "true" if first + len(page) < len(self._keys) else "false"
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(ETAG)}</ETag><Size>100</Size><StorageClass>STANDARD</StorageClass></Contents>"
            for key in page
        )
        body = (
            '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<IsTruncated>{truncated}</IsTruncated><KeyCount>{len(page)}</KeyCount>{entries}</ListBucketResult>"
        )
        return web.Response(body=body.encode(), content_type="application/xml")
