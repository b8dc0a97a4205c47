"""Upload raw data to S3: the API hands out links, and the bytes go straight to S3."""

import asyncio
from collections.abc import Collection, Mapping
from typing import Annotated, Any
from uuid import UUID

from asyncpg import Record
from fastapi import APIRouter, Body, Path, Query, Response
from sqlmodel import col, select

from services.api import tables, uploads
from services.api.connections import Api, Connections, Session
from services.api.idempotency import Submission
from services.api.links import part_link, upload_form, upload_link
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.security import Caller, OfOwners, Submitter
from services.api.shapes.uploads import (
    CompletedUpload,
    Upload,
    UploadCompletion,
    UploadedPart,
    UploadForm,
    UploadLink,
    UploadPage,
    UploadSpec,
    UploadState,
    UploadSummary,
    part_sizes,
)
from services.api.strict_json import StrictRoute
from services.contract.location import Location
from services.engine.ownership import Thing, require_control
from services.engine.quotas import check_upload
from services.engine.retention import refuse_if_needed
from services.platform.database import Connection, new_id
from services.platform.multipart import delete_all
from services.platform.problems import ProblemError, conflict, invalid, not_found, problems

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

_INSERT = """
    INSERT INTO uploads (upload_id, uri, final_uri, bytes, sha256, multipart_id, created_by, key_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"""

_EQUAL = """
    SELECT upload_id, coalesce(final_uri, uri) AS uri FROM uploads
    WHERE sha256 = $1 AND created_by = $2 AND aborted_at IS NULL AND completed_at IS NOT NULL AND bytes = $3
      AND right(coalesce(final_uri, uri), length($4) + 1) = '/' || $4
    ORDER BY upload_id DESC LIMIT 1"""

# Whoever resumes an upload may have changed the file meanwhile: only its size is looked at again.
_FORGET_CONTENT = "UPDATE uploads SET sha256 = NULL WHERE upload_id = $1"

_USE_AGAIN = """
    UPDATE uploads SET used_at = now() WHERE upload_id = $1 AND aborted_at IS NULL RETURNING upload_id"""

_COMPLETE = """
    UPDATE uploads SET completed_at = now() WHERE upload_id = $1 AND completed_at IS NULL AND aborted_at IS NULL"""

LINKS_PER_STEP = 50  # signing is pure computation; other requests get their turn between steps


@router.post(
    "",
    operation_id="create_upload",
    status_code=201,
    response_model=Upload,
    responses=problems(*BODY, 409, 502),
    summary="Begin an upload",
)
async def create_upload(
    creation: Submission, api: Api, spec: Annotated[UploadSpec, Body(openapi_examples=CREATE_EXAMPLES)]
) -> Response:
    """Get links to PUT the file to, part by part, in any order and as many at once as you like.

    A name that ends in a slash is a directory: it gets a form with which to POST each of its files.

    If you say its `sha256`, and have completed an equal upload before, which is still there, you get that one: it is
    `completed`.

    The links are for exactly the announced bytes. `renew_upload` gives others when they have expired. The bucket's
    lifecycle rules remove what an upload leaves that never completes.
    """
    upload_id = new_id()
    location = api.settings.layout.upload(upload_id, spec.filename)
    row: dict[str, Any] = {"upload_id": upload_id, "uri": location.uri, "final_uri": None, "bytes": spec.bytes}
    row["sha256"] = spec.sha256
    shown: Upload | None = None

    async def prepare() -> None:
        nonlocal shown
        if (shown := await _find_equal(api, creation.caller, spec)) is not None:
            return
        async with api.transaction() as connection:  # and again in that of the insert
            await check_upload(connection, api.settings, creation.caller.key_id, spec.bytes)
        row["multipart_id"] = None
        if not location.key.endswith("/") and len(part_sizes(spec.bytes)) > 1:
            answer = await api.aws.s3.create_multipart_upload(Bucket=location.bucket, Key=location.key)
            row["multipart_id"] = answer["UploadId"]
        else:
            place = api.settings.layout.uploading(upload_id, spec.filename)
            row.update(uri=place.uri, final_uri=location.uri)
        shown = await _show(api, row)

    async def create(connection: Connection) -> Upload:
        assert shown is not None
        if shown.completed:
            if await connection.fetchval(_USE_AGAIN, shown.upload_id) is None:
                raise conflict("an equal upload from before was deleted just now; begin this one again")
            await creation.caller.record(connection, shown.upload_id, filename=spec.filename, again=True)
            return shown
        await check_upload(connection, api.settings, creation.caller.key_id, spec.bytes)
        await connection.execute(_INSERT, *row.values(), creation.caller.principal, creation.caller.key_id)
        await creation.caller.record(connection, upload_id, filename=spec.filename, bytes=spec.bytes)
        return shown

    return await creation.once(create, prepare=prepare)


async def _find_equal(api: Connections, caller: Caller, spec: UploadSpec) -> Upload | None:
    """A completed upload of the caller's with this content, if S3 still has it."""
    if spec.sha256 is None:
        return None
    row = await api.database.fetchrow(_EQUAL, spec.sha256, caller.principal, spec.bytes, spec.filename)
    if row is None:
        return None
    place = Location.parse(row["uri"])
    check = uploads.check_directory if spec.filename.endswith("/") else uploads.check_file
    try:
        await check(api, place, spec.bytes)
    except ProblemError:
        return None
    return Upload(
        upload_id=row["upload_id"],
        uri=row["uri"],
        multipart_id=None,
        part_bytes=part_sizes(spec.bytes)[0],
        parts=[],
        completed=True,
    )


async def _show(api: Connections, row: Mapping[str, Any], uploaded: Collection[UploadedPart] = ()) -> Upload:
    """The upload with fresh links for what S3 does not have."""
    place, sizes = Location.parse(row["uri"]), part_sizes(row["bytes"])
    is_directory = place.key.endswith("/")
    return Upload(
        upload_id=row["upload_id"],
        uri=row["final_uri"] or row["uri"],
        multipart_id=row["multipart_id"],
        part_bytes=sizes[0],
        parts=[] if is_directory else await _links(api, place, row["multipart_id"], sizes, uploaded),
        form=UploadForm(**await upload_form(api, place, row["bytes"])) if is_directory else None,
        uploaded=list(uploaded),
    )


async def _links(
    api: Connections, place: Location, multipart_id: str | None, sizes: list[int], uploaded: Collection[UploadedPart]
) -> list[UploadLink]:
    if multipart_id is None:
        return [UploadLink(number=1, url=await upload_link(api, place, sizes[0]), bytes=sizes[0])]
    links, done = [], {part.number for part in uploaded}
    for number, size in enumerate(sizes, start=1):
        if number in done:
            continue
        links.append(UploadLink(number=number, url=await part_link(api, place, multipart_id, number, size), bytes=size))
        if number % LINKS_PER_STEP == 0:
            await asyncio.sleep(0)
    return links


async def _controlled(caller: Caller, api: Connections, upload_id: UUID) -> Record:
    """Raises a 404, Forbidden."""
    row = await api.database.fetchrow("SELECT * FROM uploads WHERE upload_id = $1", upload_id)
    if row is None:
        raise not_found("upload", upload_id)
    require_control(caller, Thing("upload", upload_id, row["created_by"]))
    return row


_STATES: dict[UploadState, Any] = {
    "running": col(tables.Upload.completed_at).is_(None) & col(tables.Upload.aborted_at).is_(None),
    "completed": col(tables.Upload.completed_at).is_not(None) & col(tables.Upload.aborted_at).is_(None),
    "aborted": col(tables.Upload.aborted_at).is_not(None),
}


def _summarize(row: tables.Upload) -> UploadSummary:
    state: UploadState = "aborted" if row.aborted_at else "completed" if row.completed_at else "running"
    return UploadSummary.model_validate(row.model_dump() | {"uri": row.final_uri or row.uri, "state": state})


@router.get("", operation_id="list_uploads", summary="List uploads")
async def list_uploads(
    caller: Submitter,
    session: Session,
    pages: Pages,
    owners: OfOwners,
    state: Annotated[UploadState | None, Query(description="only uploads in this state")] = None,
) -> UploadPage:
    """The uploads of the key's principal, newest first; for operators and keys with `all`, everybody's."""
    upload = tables.Upload
    statement = select(upload).where(*owners.filter(caller, upload.created_by))
    if not caller.has_role("operator") and (caller.is_scoped or not caller.all):
        statement = statement.where(upload.created_by == caller.principal)
    if state is not None:
        statement = statement.where(_STATES[state])
    rows, next_cursor = await pages.fetch(session, statement, upload.upload_id, newest_first=True)
    return UploadPage(items=[_summarize(row) for row in rows], next_cursor=next_cursor)


@router.post(
    "/{upload_id}/renew", operation_id="renew_upload", responses=problems(404, 409, 502), summary="Renew an upload"
)
async def renew_upload(caller: Submitter, api: Api, upload_id: UploadId) -> Upload:
    """Fresh links for an upload that runs, such as one that is to be resumed: for the parts that S3 does not have yet.

    `uploaded` are the other parts, which `complete_upload` wants to know, too.
    """
    row = await _controlled(caller, api, upload_id)
    if row["completed_at"] is not None or row["aborted_at"] is not None:
        state = "completed" if row["aborted_at"] is None else "aborted"
        raise conflict(f"this upload is {state}; begin a new one")
    uploaded = []
    if row["multipart_id"] is not None:
        uploaded = await uploads.list_parts(api, Location.parse(row["uri"]), row["multipart_id"])
    await api.database.execute(_FORGET_CONTENT, upload_id)
    await caller.record(api.database, upload_id)
    return await _show(api, dict(row), uploaded)


@router.post(
    "/{upload_id}/complete",
    operation_id="complete_upload",
    responses=problems(*BODY, 404, 409, 502),
    summary="Complete an upload",
)
async def complete_upload(
    caller: Submitter,
    api: Api,
    upload_id: UploadId,
    completion: Annotated[UploadCompletion, Body(openapi_examples=COMPLETE_EXAMPLES)],
) -> CompletedUpload:
    """Join the parts and check that the object, or the directory, has the announced size. Safe to repeat.

    From now on, its links change nothing that a job reads. Large directories take a while, since S3 copies each file.
    If the answer is lost meanwhile, the same request continues.
    """
    await _controlled(caller, api, upload_id)
    async with uploads.alone(api, upload_id):
        row = await _controlled(caller, api, upload_id)
        if row["aborted_at"] is not None:
            raise conflict("this upload was aborted; begin a new one")
        if row["completed_at"] is None:
            await _finish(api, row, completion)
            async with api.transaction() as connection:
                await connection.execute(_COMPLETE, upload_id)
                await caller.record(connection, upload_id, bytes=row["bytes"])
            # What a crash leaves here, and what a link still writes, goes by the bucket's lifecycle rule.
            await delete_all(api.aws.s3, api.settings.layout.uploading(upload_id, ""))
    return CompletedUpload(upload_id=upload_id, uri=row["final_uri"] or row["uri"], bytes=row["bytes"])


async def _finish(api: Connections, row: Record, completion: UploadCompletion) -> None:
    """Leave the complete upload where jobs read it. Raises a 409, and a 422 for `parts`."""
    place, size = Location.parse(row["uri"]), row["bytes"]
    if row["multipart_id"] is not None:
        await uploads.join_parts(api, place, row["multipart_id"], _ordered(completion.parts, len(part_sizes(size))))
    if place.key.endswith("/"):
        entries = await uploads.check_directory(api, place, size)
    else:
        entries = [await uploads.check_file(api, place, size)]
    if row["final_uri"] is not None:
        await uploads.copy_all(api, entries, place, Location.parse(row["final_uri"]))


def _ordered(parts: list[UploadedPart], count: int) -> list[UploadedPart]:
    """The parts by number; raises a 422 unless each of 1 … count is there once."""
    numbers = sorted(part.number for part in parts)
    if numbers != list(range(1, count + 1)):
        missing = sorted(set(range(1, count + 1)) - set(numbers))
        what = f"missing: {missing[:10]}" if missing else "some are given twice or do not exist"
        raise invalid("parts", f"{len(parts)} parts", f"give each of the parts 1 to {count} once ({what})")
    return sorted(parts, key=lambda part: part.number)


@router.delete(
    "/{upload_id}",
    operation_id="abort_upload",
    status_code=204,
    responses=problems(404, 409, 502),
    summary="Abort an upload",
)
async def abort_upload(caller: Submitter, api: Api, upload_id: UploadId) -> None:
    """End an upload that runs, or delete a completed one: its objects and parts are removed. Safe to repeat.

    It is refused while a job that has not ended, a schedule, a trigger or a processor names it.
    """
    row = await _controlled(caller, api, upload_id)
    async with uploads.alone(api, upload_id):
        async with api.transaction() as connection:
            await refuse_if_needed(connection, f"the upload {upload_id}", f"/uploads/{upload_id}/")
            await connection.execute(
                "UPDATE uploads SET aborted_at = coalesce(aborted_at, now()) WHERE upload_id = $1", upload_id
            )
            await caller.record(connection, upload_id)
        if row["multipart_id"] is not None:
            await uploads.forget_parts(api, Location.parse(row["uri"]), row["multipart_id"])
        await uploads.remove(api, upload_id)
        await api.database.execute("UPDATE uploads SET removed_at = now() WHERE upload_id = $1", upload_id)
