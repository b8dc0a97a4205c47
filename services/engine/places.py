"""Checks that a job reads and writes only where it may, in S3 and in SQS, before anything is read."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from services.contract.location import Location
from services.engine.errors import PlaceRefused
from services.engine.spec import JobSpec
from services.inputs.reach import Folder, OutOfReach, Reach, place_of, refuse_reading, uris_of
from services.inputs.spec import Input, ObjectsInput
from services.platform.database import Connection, Database
from services.platform.settings import ANYWHERE, Settings

_QUEUE_PATH = re.compile(r"https?://[A-Za-z0-9.:-]+/(\d+)/([A-Za-z0-9_-]+(?:\.fifo)?)")

# A job's outputs are its results if nothing merges them; those of other stages are told to its queue. Results of a job
# that was deleted may be kept.
_OF_JOBS = """
    SELECT j.job_id, j.told, j.results_stage
    FROM (
        SELECT job_id, created_by, share, labels, spec ->> 'output_queue' IS NOT NULL AS told,
            CASE WHEN coalesce(spec -> 'merge' ->> 'type', 'none') = 'none'
                THEN (SELECT max(stage) FROM stages AS s WHERE s.job_id = jobs.job_id) END AS results_stage
        FROM jobs WHERE job_id = ANY($1::uuid[]) AND (deleted_at IS NULL OR (deletion ->> 'keeps_results')::boolean)
        UNION ALL SELECT job_id, created_by, share, labels, results_stage = -1, results_stage
        FROM deleted_jobs WHERE job_id = ANY($1::uuid[]) AND result IS NOT NULL
    ) AS j
    WHERE j.job_id = ANY($1::uuid[]) AND ($2::text IS NULL OR j.created_by = $2 OR EXISTS (
        SELECT FROM api_keys AS k
        WHERE k.key_id = $3 AND (k.shares = '{}' OR j.share = ANY (k.shares)) AND j.labels @> k.labels))"""

_OF_UPLOADS = """
    SELECT u.upload_id FROM uploads AS u
    WHERE u.upload_id = ANY($1::uuid[]) AND ($2::text IS NULL OR u.created_by IS NULL OR u.created_by = $2 OR EXISTS (
        SELECT FROM api_keys AS k
        WHERE k.key_id = $3 AND (k."all" OR k.role = 'operator') AND k.shares = '{}' AND k.labels = '{}'))"""

_READER = "SELECT created_by, key_id FROM jobs WHERE job_id = $1"


@dataclass(frozen=True, slots=True)
class Reader:
    """For whom a job reads: a principal, and the key that submitted it or made its schedule or trigger.

    Without a principal, for everybody: the job, or its schedule, is older than principals.
    """

    principal: str | None = None
    key_id: UUID | None = None


async def may_read(connection: Connection | Database, folders: Iterable[Folder], reader: Reader) -> set[Folder]:
    """Those of the users' folders that a job of the reader may read: its own uploads, and results that its key sees."""
    wanted = set(folders)
    of_jobs = [folder.id for folder in wanted if folder.kind != "upload"]
    of_uploads = [folder.id for folder in wanted if folder.kind == "upload"]
    who = (reader.principal, reader.key_id)
    jobs = {row["job_id"]: row for row in await connection.fetch(_OF_JOBS, of_jobs, *who)} if of_jobs else {}
    uploads = {row["upload_id"] for row in await connection.fetch(_OF_UPLOADS, of_uploads, *who)} if of_uploads else ()

    def may(folder: Folder) -> bool:
        if folder.kind == "upload":
            return folder.id in uploads
        if (job := jobs.get(folder.id)) is None:
            return False
        return folder.kind == "results" or bool(job["told"]) or folder.stage == job["results_stage"]

    return {folder for folder in wanted if may(folder)}


async def check_inputs_reach(
    connection: Connection | Database, sources: Mapping[str, Input], settings: Settings, reader: Reader
) -> None:
    """Raises PlaceRefused for the first input, by its field, that names what jobs may not read."""
    places = {f"{field}.{named[0]}": (named[1], isinstance(source, ObjectsInput)) for field, source in sources.items()
              if (named := place_of(source))}  # fmt: skip
    await _check_readable(connection, places, settings, reader)


async def check_places(
    connection: Connection, spec: JobSpec, declared: Mapping[str, str], settings: Settings, reader: Reader
) -> None:
    """Raises PlaceRefused for the first field of the job that reads or writes where no job may.

    `declared` are the URIs of the objects that its processors declare, by their fields.
    """
    many = isinstance(spec.input, list)
    sources = {f"input.{number}" if many else "input": source for number, source in enumerate(spec.inputs)}
    await check_inputs_reach(connection, sources, settings, reader)
    await check_declared(connection, declared, settings, reader)
    if spec.results is not None and not Reach(settings).may_write(Location.parse(spec.results)):
        fix = "results may not go there: leave it out, or have the operator add the place to PIECEWORK_WRITE_TO"
        raise PlaceRefused("results", spec.results, fix)
    if spec.output_queue is not None:
        await check_queue(connection, spec.output_queue, "output_queue", settings)


async def check_declared(
    connection: Connection, declared: Mapping[str, str], settings: Settings, reader: Reader
) -> None:
    """Raises PlaceRefused for the first object that processors declare, by its field, that the reader may not read."""
    await _check_readable(connection, {field: (uri, False) for field, uri in declared.items()}, settings, reader)


async def _check_readable(
    connection: Connection | Database, places: Mapping[str, tuple[str, bool]], settings: Settings, reader: Reader
) -> None:
    reach, folders = Reach(settings), {}
    for field, (uri, prefix) in places.items():
        place = Location.parse(uri)
        if reach.may_read(place, prefix):
            continue
        if (folder := reach.folder_of(place)) is None:
            raise _unreadable(field, uri)
        folders[field] = folder
    readable = await may_read(connection, folders.values(), reader)
    for field, folder in folders.items():
        if folder not in readable:
            raise _unreadable(field, places[field][0])


def _unreadable(field: str, uri: str) -> PlaceRefused:
    fix = "jobs may not read this: upload the data, or have the operator add its place to PIECEWORK_READ_FROM"
    return PlaceRefused(field, uri, fix)


async def check_task_inputs(
    database: Database,
    job_id: UUID,
    inputs: Iterable[Mapping[str, Any]],
    settings: Settings,
    reader: Reader | None = None,
) -> None:
    """Raises OutOfReach if tasks would read what is neither the job's own nor readable, as a manifest may name.

    The reader is the job's.
    """
    reach = Reach(settings)
    folders: dict[Folder, str] = {}
    for task_input in inputs:
        for uri in uris_of(task_input):
            place = Location.parse(uri)
            if settings.layout.is_of_job(job_id, place) or reach.may_read(place):
                continue
            if (folder := reach.folder_of(place)) is None:
                raise refuse_reading(uri)
            folders.setdefault(folder, uri)
    if not folders:
        return
    if reader is None:
        job_row = await database.fetchrow(_READER, job_id)
        reader = Reader(*job_row) if job_row else Reader()
    if refused := folders.keys() - await may_read(database, folders, reader):
        raise refuse_reading(folders[min(refused, key=str)])


def refuse_unmade_items(inputs: Iterable[Mapping[str, Any]]) -> None:
    """Raises OutOfReach for items of a kind that only Piecework makes: user code can write its listing of items."""
    for task_input in inputs:
        if task_input.get("type") in ("outputs", "split"):
            raise OutOfReach(f"a task listed an item of type {task_input['type']!r}, which only Piecework makes")


def parse_queue(queue_url: str) -> tuple[str, str] | None:
    """Account and name of the queue, if this is how SQS itself writes its URL."""
    match = _QUEUE_PATH.fullmatch(queue_url)
    return (match[1], match[2]) if match else None


_POOLS = "SELECT name, queue_url, dead_letter_url FROM pools"


async def check_queue(connection: Connection | Database, queue_url: str, field: str, settings: Settings) -> None:
    """Raises PlaceRefused unless the operator allows this queue, or if it is a pool's, however that one is spelled.

    Account and name are compared, which are all that differs between ARNs: the region is always Piecework's own.
    """
    if (named := parse_queue(queue_url)) is None:
        raise PlaceRefused(field, queue_url, "write the queue's URL as SQS does: https://host/account/name")
    allowed = [arn.strip() for arn in settings.queues.split(",") if arn.strip()]
    patterns = (arn.split(":") for arn in allowed if arn != ANYWHERE)
    if ANYWHERE not in allowed and not any(
        fnmatchcase(named[0], account) and fnmatchcase(named[1], name) for *_, account, name in patterns
    ):
        fix = "jobs may not use this queue: have the operator add its ARN to PIECEWORK_QUEUES"
        raise PlaceRefused(field, queue_url, fix)
    for pool in await connection.fetch(_POOLS):
        if any(urlsplit(url).path.strip("/").split("/")[-2:] == [*named]
               for url in (pool["queue_url"], pool["dead_letter_url"])):  # fmt: skip
            fix = f"this queue belongs to the pool {pool['name']}; name one of your own"
            raise PlaceRefused(field, queue_url, fix)
