"""Bytes between S3 and the node's disk, streamed: memory stays flat whatever the size.

S3's answers about an object (gone, changed, forbidden) raise a TaskError at once. Anything else may pass: it is retried
until nothing has come of it for a while, two minutes by default, a download from where it stopped. Then this is an
outage, and the attempt is excused.
"""

import asyncio
import contextlib
import os
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from services.contract.location import Location
from services.contract.task_error import TaskError, describe
from services.contract.task_output import StoredObject
from services.platform.s3_faults import S3_ERRORS, error_code, fault_of, is_outage
from services.platform.threads import beside_loop

T = TypeVar("T")


class OpenFile(Protocol):
    """A file whose descriptor is read."""

    def fileno(self) -> int: ...


_PATIENCE = 6  # read timeouts without progress
_TRIES_MIN = 2  # however long the first took
_CHUNK_BYTES = 1 << 20
_PART_BYTES = 8 << 20
_PARTS_MAX = 10_000  # of a multipart upload, by S3
_PARTS_AT_ONCE = 2  # each is in memory, and so is its copy in the HTTP client


async def download(
    s3: Any,
    source: Location,
    file: BinaryIO,
    *,
    etag: str | None = None,
    version: str | None = None,
    start: int = 0,
    end: int | None = None,
    crc32: int | None = None,
) -> int:
    """Write bytes `start` up to but without `end` (default: all) of an object to the file; returns how many.

    If their `crc32` (zlib's) is known, bytes that differ from it are fetched once more: the way may be at fault.

    Raises TaskError: input_missing (also if it lacks the version), input_changed (its ETag or CRC-32 is another),
    input_forbidden, or input_unavailable, which is retryable.
    """
    begin = file.tell()
    transfer = await _download_all(_Download(s3, source, file, etag, version, start, end, checked=crc32 is not None))
    if crc32 not in (None, transfer.crc32):
        file.seek(begin)
        file.truncate()
        transfer = await _download_all(_Download(s3, source, file, etag, version, start, end, checked=True))
    if crc32 not in (None, transfer.crc32):
        found, message = transfer.crc32, f"{source.uri} does not hold the bytes that were written to it"
        message = f"{message} (their CRC-32 is {found:08x}, not {crc32:08x})"
        raise TaskError("input_changed", message, retryable=False, gone=[source])
    return transfer.position - start


async def _download_all(transfer: "_Download") -> "_Download":
    source, end = transfer.source, transfer.end
    if end == transfer.position:
        return transfer
    try:
        async for attempt in _retrying(transfer.s3, transfer):
            with attempt:
                await transfer.go_on()
    except S3_ERRORS as error:
        raise input_error(source, transfer.etag, error, transfer.version) from None
    if end is not None and transfer.position != end:
        message = f"{source.uri} has no bytes {transfer.position}-{end - 1}"
        raise TaskError("input_changed", message, retryable=False, gone=[source])
    return transfer


async def object_bytes(s3: Any, source: Location, etag: str | None) -> int:
    """The size of an object; raises TaskError like `download`."""
    request = {"Bucket": source.bucket, "Key": source.key} | ({} if etag is None else {"IfMatch": etag})
    try:
        async for attempt in _retrying(s3):
            with attempt:
                return int((await s3.head_object(**request))["ContentLength"])
    except S3_ERRORS as error:
        raise input_error(source, etag, error) from None
    raise AssertionError("retrying ends with an answer or an exception")


class _Download:
    """A download that can be resumed: it keeps its position, the object's ETag and, if `checked`, the CRC-32."""

    def __init__(
        self,
        s3: Any,
        source: Location,
        file: BinaryIO,
        etag: str | None,
        version: str | None,
        start: int,
        end: int | None,
        checked: bool,
    ) -> None:
        self.source = source
        self.etag = etag
        self.version = version
        self.end = end
        self.position = start
        self.crc32 = 0
        self.s3 = s3
        self.got_on_at = 0.0  # time.monotonic() at the last progress worth the name
        self._file = file
        self._checked = checked

    async def go_on(self) -> None:
        request: dict[str, Any] = {"Bucket": self.source.bucket, "Key": self.source.key}
        if self.etag is not None:
            request["IfMatch"] = self.etag
        if self.version is not None:
            request["VersionId"] = self.version
        if self.position or self.end is not None:
            request["Range"] = f"bytes={self.position}-{'' if self.end is None else self.end - 1}"
        response = await self.s3.get_object(**request)
        self.etag = response["ETag"]
        body, unreported = response["Body"], 0
        async with body:
            while chunk := await body.read(_CHUNK_BYTES):
                self._file.write(chunk)  # into the page cache: quicker than handing it to a thread
                if self._checked:
                    self.crc32 = zlib.crc32(chunk, self.crc32)
                self.position += len(chunk)
                unreported += len(chunk)
                if unreported >= _CHUNK_BYTES:
                    self.got_on_at, unreported = time.monotonic(), 0


def _retrying(s3: Any, transfer: "_Download | None" = None) -> AsyncRetrying:
    """Tries until nothing has come for a while: a large object may take longer than any outage should."""
    began_at, patience = time.monotonic(), _PATIENCE * s3.meta.config.read_timeout

    def is_hopeless(state: RetryCallState) -> bool:
        got_on_at = max(began_at, transfer.got_on_at if transfer else 0.0)
        return state.attempt_number >= _TRIES_MIN and time.monotonic() - got_on_at >= patience

    return AsyncRetrying(
        retry=retry_if_exception(_may_pass),
        stop=is_hopeless,
        wait=wait_random_exponential(0.2, max=5),
        reraise=True,
    )


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, S3_ERRORS) and fault_of(error) == "passing"


async def find_outage(s3: Any, bucket: str, seconds: float) -> BaseException | None:
    """Why S3 does not answer in time; None if it does, whatever it says: a policy need not allow this request."""
    try:
        async with asyncio.timeout(seconds):
            await s3.head_bucket(Bucket=bucket)
    except S3_ERRORS as error:
        return error if is_outage(error) else None
    return None


# S3 tells only those who may list a bucket that an object does not exist.
_WHY_REFUSED = (
    "the worker's role needs s3:GetObject on it, s3:ListBucket to be told what is missing, and kms:Decrypt on its key"
)


def input_error(source: Location, etag: str | None, error: BaseException, version: str | None = None) -> TaskError:
    """The TaskError for a failed read of the object; `etag` and `version` are those of the wanted one."""
    match fault_of(error):
        case "missing" | "misnamed" if version is not None:
            message = f"{source.uri} has no version {version!r}, which the job's manifest names"
            return TaskError("input_missing", message, retryable=False)
        case "refused" if version is not None:
            message = (
                f"S3 refuses version {version!r} of {source.uri}, which needs s3:GetObjectVersion: {describe(error)}"
            )
            return TaskError("input_forbidden", message, retryable=False)
        case "refused":
            message = f"S3 refuses access to {source.uri}: {describe(error)}; {_WHY_REFUSED}"
            return TaskError("input_forbidden", message, retryable=False)
        case "missing":
            return TaskError("input_missing", f"{source.uri} does not exist", retryable=False, gone=[source])
        case "archived":
            message = f"{source.uri} is in an archive of S3: restore it first"
            return TaskError("input_missing", message, retryable=False, gone=[source])
        case "changed" if error_code(error) == "InvalidRange":
            return TaskError("input_changed", f"{source.uri} has become shorter", retryable=False, gone=[source])
        case "changed":
            message = f"{source.uri} is no longer the object it was when the job began (ETag {etag})"
            return TaskError("input_changed", message, retryable=False, gone=[source])
    message = f"{source.uri} can't be read: {describe(error)}"
    return TaskError("input_unavailable", message, excused=is_outage(error))


async def upload(s3: Any, file: OpenFile, target: Location) -> StoredObject:
    """Put the bytes of an open file; tries again read its descriptor again, never a path.

    Raises TaskError: output_forbidden, or output_unavailable, which is retryable.
    """
    size = (await beside_loop(os.fstat, file.fileno())).st_size
    put = partial(_put if size <= _PART_BYTES else _put_parts, s3, file, size, target)
    parts, etag = await _trying(s3, target, put)
    return StoredObject(target, parts.bytes, parts.crc32, etag=etag)


async def upload_bytes(s3: Any, body: bytes, target: Location) -> StoredObject:
    """Likewise, of bytes that one request takes."""

    async def put() -> str:
        return str((await s3.put_object(Bucket=target.bucket, Key=target.key, Body=body))["ETag"])

    etag = await _trying(s3, target, put)
    return StoredObject(target, len(body), zlib.crc32(body), etag=etag)


async def _trying(s3: Any, target: Location, put: Callable[[], Awaitable[T]]) -> T:
    try:
        async for attempt in _retrying(s3):
            with attempt:
                return await put()
    except S3_ERRORS as error:
        message = f"{target.uri} can't be written: {describe(error)}"
        if fault_of(error) == "refused":
            message = (
                f"{message}; the worker's role needs s3:PutObject there, and kms:GenerateDataKey on the bucket's key"
            )
            raise TaskError("output_forbidden", message, retryable=False) from None
        raise TaskError("output_unavailable", message, excused=is_outage(error)) from None
    raise AssertionError("retrying ends with an answer or an exception")


class _Parts:
    """The first `size` bytes of a file, read from its beginning on part by part; `bytes` and `crc32` of those read."""

    def __init__(self, file: OpenFile, size: int, part_bytes: int) -> None:
        self.bytes = 0
        self.crc32 = 0
        self._file = file
        self._size = size
        self._part_bytes = part_bytes
        self._count = 0
        self._turn = asyncio.Lock()

    async def next(self) -> tuple[int, bytes]:
        """The next part's number, from 1, and its bytes: none at the file's end."""
        async with self._turn:
            body = await beside_loop(self._read)
            self._count += 1
            return self._count, body

    def _read(self) -> bytes:
        pieces, end = [], min(self._size, self.bytes + self._part_bytes)
        while piece := os.pread(self._file.fileno(), end - self.bytes, self.bytes):
            self.bytes += len(piece)
            self.crc32 = zlib.crc32(piece, self.crc32)
            pieces.append(piece)
        return b"".join(pieces)


async def _put(s3: Any, file: OpenFile, size: int, target: Location) -> tuple[_Parts, str]:
    """What was read, and the ETag."""
    parts = _Parts(file, size, _PART_BYTES)
    _, body = await parts.next()
    answer = await s3.put_object(Bucket=target.bucket, Key=target.key, Body=body)
    return parts, answer["ETag"]


async def _put_parts(s3: Any, file: OpenFile, size: int, target: Location) -> tuple[_Parts, str]:
    """A multipart upload, a few parts at once; aborted if it can't be completed, so that its parts cost nothing."""
    where = {"Bucket": target.bucket, "Key": target.key}
    upload_id = (await s3.create_multipart_upload(**where))["UploadId"]
    parts = _Parts(file, size, max(_PART_BYTES, -(-size // _PARTS_MAX)))
    put: list[dict[str, Any]] = []

    async def put_some() -> None:
        while (part := await parts.next())[1]:
            number, body = part
            answer = await s3.upload_part(**where, UploadId=upload_id, PartNumber=number, Body=body)
            put.append({"PartNumber": number, "ETag": answer["ETag"]})

    try:
        await all_or_none(*(put_some() for _ in range(_PARTS_AT_ONCE)))
        put.sort(key=lambda part: part["PartNumber"])
        answer = await s3.complete_multipart_upload(**where, UploadId=upload_id, MultipartUpload={"Parts": put})
    except BaseException:
        with contextlib.suppress(*S3_ERRORS):
            await s3.abort_multipart_upload(**where, UploadId=upload_id)
        raise
    return parts, answer["ETag"]


async def for_each(items: Iterable[T], at_once: int, work: Callable[[T], Awaitable[None]]) -> None:
    """Do the work for each item, `at_once` at a time; the first exception cancels the rest and is raised."""
    waiting = iter(items)

    async def do_some() -> None:
        for item in waiting:
            await work(item)

    await all_or_none(*(do_some() for _ in range(at_once)))


async def all_or_none(*steps: Coroutine[Any, Any, None]) -> None:
    """Run the steps at once; the first exception of one cancels the others and is raised."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
