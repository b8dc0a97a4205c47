"""The failures of a job's tasks by their kind."""

from typing import Annotated

from fastapi import APIRouter, Query

from services.api import tables
from services.api.connections import Api, Session
from services.api.security import Viewer
from services.api.shapes.jobs import FailureKind, Failures, source_of
from services.api.strict_json import StrictRoute
from services.engine.failures import group_failures
from services.engine.ownership import require_job
from services.platform.problems import not_found, problems
from services.platform.routes import JobId

router = APIRouter(prefix="/jobs/{job_id}/failures", tags=["tasks"], route_class=StrictRoute, responses=problems(404))


@router.get("", operation_id="list_failures", summary="List a job's failures by their kind")
async def list_failures(
    caller: Viewer,
    api: Api,
    session: Session,
    job_id: JobId,
    stage: Annotated[int | None, Query(ge=0, le=32_767)] = None,
) -> Failures:
    """Failed attempts with the same error count as one kind: numbers, paths and URIs in the message may differ.

    The first 50,000 failed attempts are looked at, and up to 100 kinds are told.
    """
    if await session.get(tables.Job, job_id) is None:
        raise not_found("job", job_id)
    await require_job(api.database, caller, job_id)
    kinds, complete = await group_failures(api.database, job_id, stage)
    return Failures(
        items=[FailureKind.model_validate({**kind, "source": source_of(kind["input"])}) for kind in kinds],
        complete=complete,
    )
