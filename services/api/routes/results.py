"""Download a job's results."""

from typing import Any

from fastapi import APIRouter

from services.api.connections import Api, Connections
from services.api.links import download_link
from services.api.security import Viewer
from services.api.shapes.jobs import ResultFile, Results
from services.api.strict_json import StrictRoute
from services.contract.location import Location
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
        raise conflict(f"the job is {row['state']}; it has results only when it has succeeded")
    return Results(
        job_id=job_id,
        files=[await _file(api, file) for file in row["result"]["files"]],
        manifest=await _file(api, row["result"]["manifest"]),
    )


async def _file(api: Connections, file: dict[str, Any]) -> ResultFile:
    url = await download_link(api, Location.parse(file["uri"]), file["name"].rpartition("/")[2])
    return ResultFile(**file, url=url)
