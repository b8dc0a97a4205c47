"""The cost of one split task, which works in the worker's own process, next to other tasks."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Meter:
    """Counts the bytes that its `s3` reads and writes, and the CPU time of its threads."""

    def __init__(self, s3: Any) -> None:
        self.s3 = _Client(s3, self)
        self.bytes_in = 0
        self.bytes_out = 0
        self.cpu_seconds = 0.0

    async def in_thread(self, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run CPU-heavy work in a thread, so that the worker's heartbeat goes on."""

        def timed() -> R:
            started = time.thread_time()
            try:
                return work(*args, **kwargs)
            finally:
                spent.append(time.thread_time() - started)

        spent: list[float] = []
        try:
            return await asyncio.to_thread(timed)
        finally:
            self.cpu_seconds += sum(spent)


class _Client:
    """S3's client, metered."""

    def __init__(self, s3: Any, meter: Meter) -> None:
        self._s3 = s3
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._s3, name)

    async def get_object(self, **request: Any) -> Any:
        answer = await self._s3.get_object(**request)
        self._meter.bytes_in += answer["ContentLength"]
        return answer

    async def put_object(self, *, Body: bytes, **request: Any) -> Any:
        answer = await self._s3.put_object(Body=Body, **request)
        self._meter.bytes_out += len(Body)
        return answer

    async def upload_part(self, *, Body: bytes, **request: Any) -> Any:
        answer = await self._s3.upload_part(Body=Body, **request)
        self._meter.bytes_out += len(Body)
        return answer
