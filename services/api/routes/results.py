"""Download a job's results."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlmodel import select

from services.api import tables
from services.api.connections import Api, Connections, Session
from services.api.links import download_link
from services.api.pagination import Pages
from services.api.security import Viewer
from services.api.shapes.jobs import Part, PartPage, ResultFile, Results
from services.api.strict_json import StrictRoute
from services.contract.location import Location
from services.contract.output_name import common_folder, result_folders
from services.contract.source import TaskSource
from services.contract.task_output import TaskOutput
from services.engine.ownership import require_job
from services.platform.problems import conflict, not_found, problems
from services.platform.routes import JobId

router = APIRouter(prefix="/jobs/{job_id}/results", tags=["results"], route_class=StrictRoute)

# Of a job that was deleted, its results may be kept.
_RESULTS = """
    SELECT j.state, s.result, j.results_deleted_at
    FROM jobs AS j LEFT JOIN stages AS s ON s.job_id = j.job_id AND s.result IS NOT NULL
    WHERE j.job_id = $1 ORDER BY s.stage DESC NULLS LAST LIMIT 1"""
_RESULTS_LEFT = """
    SELECT 'succeeded' AS state, result, NULL::timestamptz AS results_deleted_at
    FROM deleted_jobs WHERE job_id = $1 AND result ? 'manifest'"""


@router.get("", operation_id="get_results", responses=problems(404, 409), summary="Get a job's results")
async def get_results(caller: Viewer, api: Api, job_id: JobId) -> Results:
    """Presigned links to the results of a job that succeeded, and to the manifest of all their parts.

    When nothing is merged and there are more than a thousand parts, only the manifest lists them.
    """
    await require_job(api.database, caller, job_id)
    row = await api.database.fetchrow(_RESULTS, job_id) or await api.database.fetchrow(_RESULTS_LEFT, job_id)
    if row is None:
        raise not_found("job", job_id)
    if row["results_deleted_at"] is not None:
        raise conflict(f"its results were deleted at {row['results_deleted_at']:%Y-%m-%dT%H:%M:%SZ}; run the job again")
    if row["state"] != "succeeded" or row["result"] is None:
        parts = f"its parts so far are there (list_parts; `piecework results {job_id} --partial`)"
        raise conflict(f"the job is {row['state']}; it has results only when it has succeeded, but {parts}")
    return Results(
        job_id=job_id,
        files=[await _file(api, file) for file in row["result"]["files"]],
        manifest=await _file(api, row["result"]["manifest"]),
    )


_STAGE = """
    SELECT stage, coalesce((options ->> 'named_results')::boolean, false) AS named,
        (SELECT jsonb_path_query_array(j.spec, '$.input ? (exists (@.uri) || exists (@.prefix))')
            FROM jobs AS j WHERE j.job_id = s.job_id) AS inputs
    FROM stages AS s WHERE job_id = $1 AND CASE WHEN $2::integer IS NULL THEN kind <> 'reduce'
        ELSE stage = $2 END
    ORDER BY stage DESC LIMIT 1"""


@router.get("/parts", operation_id="list_parts", responses=problems(404, 409), summary="List a job's parts")
async def list_parts(
    caller: Viewer,
    api: Api,
    session: Session,
    pages: Pages,
    job_id: JobId,
    stage: Annotated[
        int | None, Query(ge=0, le=32_767, description="absent: that of which the results are made")
    ] = None,
) -> PartPage:
    """What the tasks of a stage have made, whether the job has ended or not, and which have made nothing, and why.

    So what a job that failed has made can be used, and that of a job that still runs. Tasks that are not planned yet
    are missing. Parts that only later stages need can be gone, as retention says.
    """
    await require_job(api.database, caller, job_id)
    found = await api.database.fetchrow(_STAGE, job_id, stage)
    if found is None:
        raise not_found("stage", f"{stage} of job {job_id}")
    row = tables.Task
    statement = select(row).where(row.job_id == job_id, row.stage == found["stage"])
    tasks, next_cursor = await pages.fetch(session, statement, row.index)
    common = common_folder(found["inputs"]) if found["named"] else None
    return PartPage(items=[await _part(api, task, common) for task in tasks], next_cursor=next_cursor)


async def _part(api: Connections, task: tables.Task, common: str | None) -> Part:
    output = TaskOutput.from_json(task.output if task.state == "succeeded" else None)
    folders = None if common is None else result_folders(TaskSource.of(task.input), common)
    files = [
        ResultFile(
            name=name,
            uri=made.location.uri,
            bytes=made.bytes,
            checksum_crc32=None if made.crc32 is None else base64.b64encode(made.crc32.to_bytes(4, "big")).decode(),
            url=await download_link(api, made.location, name),
        )
        for name, made in output.named_files(task.index, folders)
    ]
    return Part.model_validate(task.model_dump() | {"files": files, "value": output.value})


async def _file(api: Connections, file: dict[str, Any]) -> ResultFile:
    url = await download_link(api, Location.parse(file["uri"]), file["name"].rpartition("/")[2])
    return ResultFile(**file, url=url)
