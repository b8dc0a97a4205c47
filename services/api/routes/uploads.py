"""Upload raw data to S3: the API hands out links, and the bytes go straight to S3."""

import asyncio
from typing import Annotated, Any
from uuid import UUID

from botocore.exceptions import ClientError
from fastapi import APIRouter, Body, Path, Response

from services.api.connections import Api, Connections
from services.api.idempotency import Submission
from services.api.links import part_link, upload_form, upload_link
from services.api.problems import BODY
from services.api.security import Submitter
from services.api.shapes.uploads import (
    CompletedUpload,
    Upload,
    UploadCompletion,
    UploadedPart,
    UploadForm,
    UploadLink,
    UploadSpec,
    part_sizes,
)
from services.api.strict_json import StrictRoute
from services.contract.location import Location
from services.platform.database import Connection, new_id
from services.platform.problems import conflict, invalid, not_found, problems
from services.platform.s3_faults import error_code, fault_of

router = APIRouter(prefix="/uploads", tags=["uploads"], route_class=StrictRoute)

UploadId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

CREATE_EXAMPLES: Any = {
    "small": {"summary": "A file that goes in one PUT", "value": {"filename": "flights.csv", "bytes": 31000000}},
    "large": {"summary": "A file in many parts", "value": {"filename": "claims.parquet", "bytes": 80000000000}},
    "directory": {"summary": "A directory of files", "value": {"filename": "notes/", "bytes": 4200000}},
}
COMPLETE_EXAMPLES: Any = {
    "small": {"summary": "After a single PUT", "value": {"parts": []}},
    "large": {
        "summary": "After a multipart upload",
        "value": {"parts": [{"number": 1, "etag": "9bb58f26192e4ba00f01e2e7b136bbd8"}]},
    },
}

LINKS_PER_STEP = 50  # signing is pure computation; other requests get their turn between steps


@router.post(
    "",
    operation_id="create_upload",
    status_code=201,
    response_model=Upload,
    responses=problems(*BODY, 502),
    summary="Begin an upload",
)
async def create_upload(
    creation: Submission, api: Api, spec: Annotated[UploadSpec, Body(openapi_examples=CREATE_EXAMPLES)]
) -> Response:
    """Get links to PUT the file to, part by part, in any order and as many at once as you like.

    A name that ends in a slash is a directory: it gets a form with which to POST each of its files.

    The bucket's lifecycle rule (`AbortIncompleteMultipartUpload`) removes the parts of an upload that never completes.
    """
    upload_id = new_id()
    location = api.settings.layout.upload(upload_id, spec.filename)
    sizes = part_sizes(spec.bytes)
    multipart_id: str | None = None
    links: list[UploadLink] = []
    form: UploadForm | None = None

    async def prepare() -> None:
        nonlocal multipart_id, links, form
        if location.key.endswith("/"):
            form = UploadForm(**await upload_form(api, location, spec.bytes))
            return
        if len(sizes) > 1:
            answer = await api.aws.s3.create_multipart_upload(Bucket=location.bucket, Key=location.key)
            multipart_id = answer["UploadId"]
        links = await _links(api, location, multipart_id, sizes)

    async def create(connection: Connection) -> Upload:
        await connection.execute(
            "INSERT INTO uploads (upload_id, uri, bytes, multipart_id) VALUES ($1, $2, $3, $4)",
            upload_id,
            location.uri,
            spec.bytes,
            multipart_id,
        )
        return Upload(
            upload_id=upload_id,
            uri=location.uri,
            multipart_id=multipart_id,
            part_bytes=sizes[0],
            parts=links,
            form=form,
        )

    return await creation.once(create, prepare=prepare)


async def _links(api: Connections, location: Location, multipart_id: str | None, sizes: list[int]) -> list[UploadLink]:
    if multipart_id is None:
        return [UploadLink(number=1, url=await upload_link(api, location), bytes=sizes[0])]
    links = []
    for number, size in enumerate(sizes, start=1):
        links.append(UploadLink(number=number, url=await part_link(api, location, multipart_id, number), bytes=size))
        if number % LINKS_PER_STEP == 0:
            await asyncio.sleep(0)
    return links


@router.post(
    "/{upload_id}/complete",
    operation_id="complete_upload",
    responses=problems(*BODY, 404, 409, 502),
    summary="Complete an upload",
)
async def complete_upload(
    _key: Submitter,
    api: Api,
    upload_id: UploadId,
    completion: Annotated[UploadCompletion, Body(openapi_examples=COMPLETE_EXAMPLES)],
) -> CompletedUpload:
    """Join the parts and check that the object, or the directory, has the announced size. Safe to repeat."""
    row = await api.database.fetchrow("SELECT * FROM uploads WHERE upload_id = $1", upload_id)
    if row is None:
        raise not_found("upload", upload_id)
    completed = CompletedUpload(upload_id=upload_id, uri=row["uri"], bytes=row["bytes"])
    if row["completed_at"] is not None:
        return completed
    location = Location.parse(row["uri"])
    if row["multipart_id"] is not None:
        parts = _ordered(completion.parts, len(part_sizes(row["bytes"])))
        await _join(api, location, row["multipart_id"], parts)
    if location.key.endswith("/"):
        await _check_total(api, location, row["bytes"])
    else:
        await _check_size(api, location, row["bytes"])
    # The object in S3 decides, so a concurrent completion gets the same result.
    await api.database.execute("UPDATE uploads SET completed_at = now() WHERE upload_id = $1", upload_id)
    return completed


def _ordered(parts: list[UploadedPart], count: int) -> list[UploadedPart]:
    """The parts by number; raises a 422 unless each of 1 … count is there once."""
    numbers = sorted(part.number for part in parts)
    if numbers != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(numbers))
        what = f"missing: {missing[:10]}" if missing else "some are given twice or do not exist"
        raise invalid("parts", f"{len(parts)} parts", f"give each of the parts 1 to {count} once ({what})")
    return sorted(parts, key=lambda part: part.number)


async def _join(api: Connections, location: Location, multipart_id: str, parts: list[UploadedPart]) -> None:
    try:
        await api.aws.s3.complete_multipart_upload(
            Bucket=location.bucket,
            Key=location.key,
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


async def _check_size(api: Connections, location: Location, size: int) -> None:
    try:
        head = await api.aws.s3.head_object(Bucket=location.bucket, Key=location.key)
    except ClientError as error:
        if fault_of(error) != "missing":
            raise
        raise conflict("the object does not exist yet; PUT the file to the upload's links first") from error
    if head["ContentLength"] != size:
        raise conflict(
            f"the object has {head['ContentLength']} bytes, but {size} were announced; upload it again, "
            "with a new upload if its size has changed"
        )


async def _check_total(api: Connections, prefix: Location, size: int) -> None:
    pages = api.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=prefix.bucket, Prefix=prefix.key)
    total = 0
    async for page in pages:
        for entry in page.get("Contents", []):
            if entry["Key"].endswith("/") and entry["Size"]:
                raise conflict(
                    f"the object {entry['Key']!r} has {entry['Size']} bytes but no file name; begin a new upload, and "
                    "POST each file with its path in the directory in place of ${filename} in the field `key`"
                )
            total += entry["Size"]
    if total != size:
        raise conflict(
            f"the directory's objects have {total} bytes, but {size} were announced; POST each file once by the "
            "upload's form, and begin a new upload if the files have changed"
        )
