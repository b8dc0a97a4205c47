"""Writing an object of any size in constant memory: by S3 multipart upload, from bytes and from other objects.

Limits: https://docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html, and for the size of an object the news of
December 2025 ("maximum object size to 50 TB"; before, and in S3's older copies of that page, 5 TiB).
"""

import asyncio
import math
from collections.abc import Coroutine, Sequence
from types import TracebackType
from typing import Any, Self

from botocore.exceptions import ClientError

from services.contract.location import Location
from services.platform.reads import ObjectLost
from services.platform.s3_faults import LOST, error_code, fault_of

PART_BYTES_MIN = 5_242_880  # of every part but the last
PART_BYTES_MAX = 5_368_709_120  # of a copied part
PARTS_MAX = 10_000
OBJECT_BYTES_MAX = 50_000_000_000_000

COPIES_AT_ONCE = 16  # S3's work, not ours
UPLOADS_AT_ONCE = 4  # each is in memory
BUFFER_BYTES = 8_388_608  # what is written is sent off in parts of about this size


class TooManyParts(Exception):
    """The object would need more parts than S3 allows."""


class MultipartWriter:
    """An object being written: `write` bytes and `copy` ranges of other objects, in order.

    Nothing is visible until the context ends without an exception; after an exception, the upload is aborted. Uploads
    left by a crashed writer of the same key are aborted at the start.
    """

    def __init__(self, s3: Any, target: Location, content_type: str = "application/octet-stream") -> None:
        self._s3 = s3
        self._target = target
        self._content_type = content_type
        self._upload_id: str | None = None
        self._parts: list[asyncio.Task[dict[str, Any]]] = []
        self._copies = asyncio.Semaphore(COPIES_AT_ONCE)
        self._uploads = asyncio.Semaphore(UPLOADS_AT_ONCE)
        self._buffer = bytearray()
        self.bytes = 0

    async def __aenter__(self) -> Self:
        await abort_uploads(self._s3, self._target)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                await self._complete()
        finally:
            for part in self._parts:
                part.cancel()
            await asyncio.gather(*self._parts, return_exceptions=True)
            if self._upload_id is not None:
                await self._s3.abort_multipart_upload(**self._at(), UploadId=self._upload_id)

    def _at(self) -> dict[str, str]:
        return {"Bucket": self._target.bucket, "Key": self._target.key}

    @property
    def parts(self) -> int:
        """How many parts have been started."""
        return len(self._parts)

    async def write(self, data: bytes) -> None:
        """Append bytes; they wait in memory until they are BUFFER_BYTES, then they are sent off as a part."""
        self._buffer += data
        self.bytes += len(data)
        if len(self._buffer) >= BUFFER_BYTES:
            await self._flush()

    async def copy(self, source: Location, start: int, end: int, etag: str | None = None) -> None:
        """Append bytes `start … end - 1` of another object, copied by S3 itself: at least PART_BYTES_MIN.

        Bytes that wait in memory must be as many, too. Copying ends with ObjectLost if the object is missing or, where
        the ETag is known, another one.
        """
        await self._flush()
        size = end - start
        pieces = math.ceil(size / PART_BYTES_MAX)
        for piece in range(pieces):
            begin, until = start + size * piece // pieces, start + size * (piece + 1) // pieces
            await self._add(self._copy_part(len(self._parts) + 1, source, begin, until, etag), self._copies)
        self.bytes += size

    async def _flush(self) -> None:
        if self._buffer:
            body, self._buffer = bytes(self._buffer), bytearray()
            await self._add(self._upload_part(len(self._parts) + 1, body), self._uploads)

    async def _add(self, part: Coroutine[Any, Any, dict[str, Any]], gate: asyncio.Semaphore) -> None:
        if self._upload_id is None:
            answer = await self._s3.create_multipart_upload(**self._at(), ContentType=self._content_type)
            self._upload_id = answer["UploadId"]
        if len(self._parts) == PARTS_MAX:
            part.close()
            raise TooManyParts(f"{self._target.uri} would need more than {PARTS_MAX} parts")
        await gate.acquire()
        task = asyncio.create_task(part)
        task.add_done_callback(lambda _: gate.release())
        self._parts.append(task)

    async def _upload_part(self, number: int, body: bytes) -> dict[str, Any]:
        answer = await self._s3.upload_part(**self._at(), UploadId=self._upload_id, PartNumber=number, Body=body)
        return {"PartNumber": number, "ETag": answer["ETag"]}

    async def _copy_part(self, number: int, source: Location, start: int, end: int, etag: str | None) -> dict[str, Any]:
        condition = {} if etag is None else {"CopySourceIfMatch": etag}
        try:
            answer = await self._s3.upload_part_copy(
                **self._at(),
                UploadId=self._upload_id,
                PartNumber=number,
                CopySource={"Bucket": source.bucket, "Key": source.key},
                CopySourceRange=f"bytes={start}-{end - 1}",
                **condition,
            )
        except ClientError as error:
            # S3 calls a range beyond the object's end an invalid argument.
            if fault_of(error) in LOST or error_code(error) == "InvalidArgument":
                raise ObjectLost(source, f"can't be copied: {error}") from error
            raise
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    async def _complete(self) -> None:
        if self._upload_id is None:
            await self._s3.put_object(**self._at(), Body=bytes(self._buffer), ContentType=self._content_type)
            return
        await self._flush()
        parts = await asyncio.gather(*self._parts)
        await self._s3.complete_multipart_upload(
            **self._at(), UploadId=self._upload_id, MultipartUpload={"Parts": parts}, MpuObjectSize=self.bytes
        )
        self._upload_id = None


async def abort_uploads(s3: Any, target: Location) -> None:
    """Abort unfinished uploads to exactly this key; their parts would cost money for ever."""
    listing = await s3.list_multipart_uploads(Bucket=target.bucket, Prefix=target.key)
    for upload in listing.get("Uploads", []):
        if upload["Key"] == target.key:
            await s3.abort_multipart_upload(Bucket=target.bucket, Key=target.key, UploadId=upload["UploadId"])


async def delete_all(s3: Any, prefix: Location) -> None:
    """Delete all objects under a prefix."""
    while True:
        listing = await s3.list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key)
        found = [entry["Key"] for entry in listing.get("Contents", [])]
        if not found:
            return
        await delete_objects(s3, prefix.bucket, found)


async def delete_objects(s3: Any, bucket: str, keys: Sequence[str]) -> None:
    """Delete at most 1,000 objects, some of which may be gone already. Raises ClientError for the first that stays."""
    objects = [{"Key": key} for key in keys]
    answer = await s3.delete_objects(Bucket=bucket, Delete={"Objects": objects, "Quiet": True})
    if errors := answer.get("Errors"):
        raise ClientError({"Error": errors[0]}, "DeleteObjects")
