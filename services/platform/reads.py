"""Ranged reads of objects. A body that breaks off is read again, so one fault does not restart work of many reads."""

from dataclasses import dataclass
from typing import Any

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from services.contract.location import Location

_TRIES = 5


async def read_range(s3: Any, location: Location, start: int, end: int, **condition: str) -> bytes:
    """Bytes `start … end - 1` of an object; fewer if it ends before. Raises what the client raises."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(aiohttp.ClientError),
        stop=stop_after_attempt(_TRIES),
        wait=wait_random_exponential(0.05, max=1),
        reraise=True,
    ):
        with attempt:
            answer = await s3.get_object(
                Bucket=location.bucket, Key=location.key, Range=f"bytes={start}-{end - 1}", **condition
            )
            async with answer["Body"] as body:
                data: bytes = await body.read()
                return data
    raise AssertionError("retrying ends with an answer or an exception")


@dataclass(frozen=True, slots=True)
class PinnedObject:
    """One version of an object: once it is replaced, reads raise the client's PreconditionFailed."""

    s3: Any
    location: Location
    etag: str
    size: int

    @classmethod
    async def find(cls, s3: Any, uri: str) -> "PinnedObject":
        """The present version of what `uri` names. Raises what the client raises."""
        location = Location.parse(uri)
        head = await s3.head_object(Bucket=location.bucket, Key=location.key)
        return cls(s3, location, head["ETag"], int(head["ContentLength"]))

    async def read(self, start: int, end: int) -> bytes:
        """Bytes `start … end - 1`, as far as the object has them."""
        end = min(end, self.size)
        return await read_range(self.s3, self.location, start, end, IfMatch=self.etag) if start < end else b""
