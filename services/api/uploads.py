"""What happens in S3 when an upload ends.

The links of an upload outlive it, up to `link_seconds`, and nothing that a job reads may change by them. A large file
is safe: once its parts are joined, S3 knows their links no more. What one PUT or a form writes goes to a place of its
own (`Layout.uploading`), and completion copies it inside S3 to where jobs read it, which no link can write. Such a file
has at most 64 MiB; of a directory many are copied at once, and what an earlier try has copied is not copied again.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from botocore.exceptions import ClientError

from services.api.connections import Connections
from services.api.shapes.uploads import UploadedPart
from services.contract.location import Location
from services.platform.concurrency import map_at_most
from services.platform.database import LONG_SECONDS, Connection, connect_alone
from services.platform.multipart import delete_all
from services.platform.problems import conflict, invalid
from services.platform.s3_faults import LOST, error_code, fault_of

COPIES_AT_ONCE = 32
COPIES_PER_STEP = 1_000
LOCK_PAUSE_SECONDS = 0.1

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('upload ' || $1, 0))"


@asynccontextmanager
async def alone(api: Connections, upload_id: UUID) -> AsyncIterator[None]:
    """One request at a time ends an upload: a second copy might be of what a link has written meanwhile.

    The lock is a session's, on a connection of its own: an open transaction would hold up the roll-up for minutes.
    """
    async with api.uploads_ending:
        connection = await connect_alone(api.settings, api.settings.database_seconds)
        try:
            await _lock(connection, upload_id)
            yield
        finally:
            await connection.close()


async def _lock(connection: Connection, upload_id: UUID) -> None:
    """Raises TimeoutError while another request ends the upload for very long."""
    async with asyncio.timeout(LONG_SECONDS):
        while True:
            if await connection.fetchval(_LOCK, str(upload_id)):
                return
            await asyncio.sleep(LOCK_PAUSE_SECONDS)


async def list_parts(api: Connections, place: Location, multipart_id: str) -> list[UploadedPart]:
    """The parts that S3 has of a multipart upload. Raises a 409 if it has forgotten the upload."""
    pages = api.aws.s3.get_paginator("list_parts").paginate(Bucket=place.bucket, Key=place.key, UploadId=multipart_id)
    try:
        return [
            UploadedPart(number=part["PartNumber"], etag=part["ETag"])
            async for page in pages
            for part in page.get("Parts", [])
        ]
    except ClientError as error:
        if error_code(error) != "NoSuchUpload":
            raise
        raise conflict("S3 has joined this upload or removed its parts; complete it, or begin a new one") from error


async def join_parts(api: Connections, place: Location, multipart_id: str, parts: Sequence[UploadedPart]) -> None:
    """Raises a 422 for `parts`."""
    try:
        await api.aws.s3.complete_multipart_upload(
            Bucket=place.bucket,
            Key=place.key,
            UploadId=multipart_id,
            MultipartUpload={"Parts": [{"PartNumber": part.number, "ETag": part.etag} for part in parts]},
        )
    except ClientError as error:
        match error_code(error):
            case "NoSuchUpload":
                return  # already joined, by a completion whose answer was lost: the object's size decides
            case "InvalidPart" | "InvalidPartOrder" | "EntityTooSmall" as code:
                fix = f"S3 refuses them ({code}): upload the parts again as announced, and send the ETags it answers"
                raise invalid("parts", f"{len(parts)} parts", fix) from error
        raise


async def check_file(api: Connections, place: Location, size: int) -> dict[str, Any]:
    """The object, as a listing tells of one. Raises a 409 unless it is there and has the announced size."""
    try:
        head = await api.aws.s3.head_object(Bucket=place.bucket, Key=place.key)
    except ClientError as error:
        if fault_of(error) != "missing":
            raise
        raise conflict("the object does not exist yet; PUT the file to the upload's links first") from error
    if head["ContentLength"] != size:
        raise conflict(
            f"the object has {head['ContentLength']} bytes, but {size} were announced; upload it again, "
            "with a new upload if its size has changed"
        )
    return {"Key": place.key, "Size": size, "ETag": head["ETag"]}


async def check_directory(api: Connections, prefix: Location, size: int) -> list[dict[str, Any]]:
    """The objects of a directory. Raises a 409 unless they have names and, together, the announced size."""
    entries = await _list(api, prefix)
    for entry in entries:
        if entry["Key"].endswith("/") and entry["Size"]:
            raise conflict(
                f"the object {entry['Key']!r} has {entry['Size']} bytes but no file name; begin a new upload, and "
                "POST each file with its path in the directory in place of ${filename} in the field `key`"
            )
    total = sum(entry["Size"] for entry in entries)
    if total != size:
        raise conflict(
            f"the directory's objects have {total} bytes, but {size} were announced; POST each file once by the "
            "upload's form, and begin a new upload if the files have changed"
        )
    return entries


async def _list(api: Connections, prefix: Location) -> list[dict[str, Any]]:
    pages = api.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
    return [entry async for page in pages for entry in page.get("Contents", [])]


async def copy_all(api: Connections, entries: Sequence[dict[str, Any]], source: Location, target: Location) -> None:
    """Copy the objects, as they were listed under `source`, to the same names under `target`. Raises a 409."""
    there = {(entry["Key"], entry["Size"], entry["ETag"]) for entry in await _list(api, target)}

    async def copy(entry: dict[str, Any]) -> None:
        key = target.key + entry["Key"].removeprefix(source.key)
        if (key, entry["Size"], entry["ETag"]) in there:
            return
        origin = {"Bucket": source.bucket, "Key": entry["Key"]}
        try:
            await api.aws.s3.copy_object(
                Bucket=target.bucket, Key=key, CopySource=origin, CopySourceIfMatch=entry["ETag"]
            )
        except ClientError as error:
            if fault_of(error) not in LOST:
                raise
            raise conflict(f"{entry['Key']!r} was changed during the completion; complete the upload again") from error

    for first in range(0, len(entries), COPIES_PER_STEP):
        await map_at_most(COPIES_AT_ONCE, copy, entries[first : first + COPIES_PER_STEP])


async def remove(api: Connections, upload_id: UUID) -> None:
    """Delete all objects of an upload."""
    for place in (api.settings.layout.uploading(upload_id, ""), api.settings.layout.upload(upload_id, "")):
        await delete_all(api.aws.s3, place)


async def forget_parts(api: Connections, place: Location, multipart_id: str) -> None:
    """Abort a multipart upload, if S3 still knows it."""
    try:
        await api.aws.s3.abort_multipart_upload(Bucket=place.bucket, Key=place.key, UploadId=multipart_id)
    except ClientError as error:
        if error_code(error) not in ("NoSuchUpload", "404"):
            raise
