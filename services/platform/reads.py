"""Ranged reads of objects. A body that breaks off is read again, so one fault does not restart work of many reads."""

import zlib
from dataclasses import dataclass
from typing import Any

import aiohttp
from botocore.exceptions import ClientError, ReadTimeoutError, ResponseStreamingError
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from services.contract.location import Location
from services.platform.s3_faults import LOST, fault_of

_TRIES = 5
_BROKEN_OFF = (aiohttp.ClientError, ResponseStreamingError, ReadTimeoutError)  # a body that breaks off or falls silent


class ObjectLost(Exception):
    """An object is gone, or no longer holds what was written to it."""

    def __init__(self, location: Location, why: str) -> None:
        super().__init__(f"{location.uri} {why}")
        self.location = location


async def read_written(
    s3: Any, location: Location, start: int, end: int, *, crc32: int | None = None, etag: str | None = None
) -> bytes:
    """Bytes `start … end - 1`, as they were written: checked by their CRC-32 if it is known, else by the object's ETag.

    Wrong ones are read once more: the way may be at fault. Raises ObjectLost, and what the client raises.
    """
    condition = {} if etag is None or crc32 is not None else {"IfMatch": etag}
    try:
        for _ in range(2):
            data = await read_range(s3, location, start, end, **condition)
            if len(data) == end - start and crc32 in (None, zlib.crc32(data)):
                return data
    except ClientError as error:
        if fault_of(error) in LOST:
            raise ObjectLost(location, f"can't be read: {error}") from error
        raise
    raise ObjectLost(location, f"does not hold the bytes {start}-{end - 1} that were written to it")


async def read_range(s3: Any, location: Location, start: int, end: int, **condition: str) -> bytes:
    """Bytes `start … end - 1` of an object; fewer if it ends before. Raises what the client raises."""
    async for attempt in AsyncRetrying(
        retry=retry_if_exception_type(_BROKEN_OFF),
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
