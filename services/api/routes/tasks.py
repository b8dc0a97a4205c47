"""A job's tasks, their attempts and logs."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Path, Query
from sqlalchemy import and_, func, literal_column
from sqlalchemy.dialects.postgresql import distinct_on
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Api, Session
from services.api.links import download_link
from services.api.pagination import Pages
from services.api.security import Viewer
from services.api.shapes.jobs import Attempt, Task, TaskDetail, TaskLog, TaskPage
from services.api.strict_json import StrictRoute
from services.contract.location import Location
from services.contract.states import TaskState
from services.engine.followed_logs import follow_log
from services.engine.ownership import require_job
from services.engine.retries import processor_at
from services.platform.problems import ProblemError, not_found, problems
from services.platform.routes import JobId

_OF_TASK = and_(
    col(tables.Attempt.job_id) == col(tables.Task.job_id),
    col(tables.Attempt.stage) == col(tables.Task.stage),
    col(tables.Attempt.index) == col(tables.Task.index),
)
_FAILED = col(tables.Attempt.outcome) != literal_column("'succeeded'")  # as the index has it

router = APIRouter(prefix="/jobs/{job_id}/tasks", tags=["tasks"], route_class=StrictRoute, responses=problems(404))

StageNumber = Annotated[int, Path(ge=0, le=32_767, examples=[0])]
TaskIndex = Annotated[int, Path(ge=0, le=2_147_483_647, examples=[0])]


@router.get("", operation_id="list_tasks", summary="List a job's tasks")
async def list_tasks(
    caller: Viewer,
    api: Api,
    session: Session,
    pages: Pages,
    job_id: JobId,
    stage: Annotated[int | None, Query(ge=0, le=32_767)] = None,
    state: Annotated[list[TaskState], Query(description="any of these states", max_length=100)] = [],  # noqa: B006
    error: Annotated[
        str | None,
        Query(
            pattern="^[0-9a-f]{12}$",
            max_length=12,
            description="with a failed attempt of this `fingerprint` (list_failures)",
        ),
    ] = None,
    sort: Annotated[
        Literal["index", "slowest"],
        Query(description="`slowest`: by the time that the last attempt took, if a second or more; one page"),
    ] = "index",
) -> TaskPage:
    """Tasks by stage and index, or the slowest of those that have ended."""
    if await session.get(tables.Job, job_id) is None:
        raise not_found("job", job_id)
    await require_job(api.database, caller, job_id)
    task, attempt = tables.Task, tables.Attempt
    statement, key = select(task), (task.stage, task.index)
    if sort == "slowest":
        last = and_(_OF_TASK, col(attempt.attempt) == col(task.attempt))
        slow = col(attempt.run_seconds) >= literal_column("1")  # as the index has it
        statement = statement.join(attempt, last).where(attempt.job_id == job_id, slow)
    elif error is not None or state == ["failed"]:  # few among many tasks: the index of their attempts finds them
        key = (attempt.stage, attempt.index)
        statement = statement.join(attempt, _OF_TASK).where(attempt.job_id == job_id, _FAILED)
        statement = statement.ext(distinct_on(*map(col, key)))
    else:
        statement = statement.where(task.job_id == job_id)
    if error is not None:
        statement = statement.where(_FAILED, func.error_fingerprint(col(attempt.error)) == error)
    if stage is not None:
        statement = statement.where(key[0] == stage)
    if state:
        statement = statement.where(col(task.state).in_(state))
    if sort == "slowest":
        rows, next_cursor = await pages.first(session, statement.order_by(col(attempt.run_seconds).desc())), None
    else:
        rows, next_cursor = await pages.fetch(session, statement, *key)
    stages = await _stages(session, job_id)
    return TaskPage(items=[Task.model_validate(_shown(row, stages)) for row in rows], next_cursor=next_cursor)


async def _stages(session: Session, job_id: UUID) -> dict[int, dict[str, Any]]:
    """The processors of a job's stages, by the stage's number."""
    row = tables.Stage
    columns = (col(row.stage), col(row.processor), col(row.processor_version), col(row.processors_before))
    names = ("processor", "processor_version", "processors_before")
    found = await session.exec(select(*columns).where(row.job_id == job_id))
    return {stage: dict(zip(names, values, strict=True)) for stage, *values in found}


def _shown(task: tables.Task, stages: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The task with the processor of its newest attempt; if it waits, with that of the next one."""
    moment = None if task.state in ("ready", "queued") else task.finished_at or task.started_at
    return task.model_dump() | {"processor": processor_at(stages[task.stage], moment)}


def _no_task(job_id: UUID, stage: int, index: int) -> ProblemError:
    return not_found("task", f"{stage}/{index} of job {job_id} (yet)")


async def _attempts(session: Session, job_id: UUID, stage: int, index: int) -> list[tables.Attempt]:
    row = tables.Attempt
    statement = select(row).where(row.job_id == job_id, row.stage == stage, row.index == index)
    return list(await session.exec(statement.order_by(col(row.attempt))))


@router.get("/{stage}/{index}", operation_id="get_task", summary="Inspect a task")
async def get_task(
    caller: Viewer, api: Api, session: Session, job_id: JobId, stage: StageNumber, index: TaskIndex
) -> TaskDetail:
    """A task with its finished attempts."""
    await require_job(api.database, caller, job_id)
    task = await session.get(tables.Task, (job_id, stage, index))
    if task is None:
        raise _no_task(job_id, stage, index)
    stages = await _stages(session, job_id)
    attempts = [
        Attempt.model_validate(attempt.model_dump() | {"processor": processor_at(stages[stage], attempt.finished_at)})
        for attempt in await _attempts(session, job_id, stage, index)
    ]
    return TaskDetail.model_validate(_shown(task, stages) | {"attempts": attempts})


@router.get("/{stage}/{index}/log", operation_id="get_task_log", summary="Get a task's log")
async def get_task_log(
    caller: Viewer,
    api: Api,
    session: Session,
    job_id: JobId,
    stage: StageNumber,
    index: TaskIndex,
    attempt: Annotated[int | None, Query(ge=1, le=32_767, description="the newest finished attempt if absent")] = None,
    live: Annotated[
        bool, Query(description="of a running task what it has printed so far: its worker puts it from now on")
    ] = False,
) -> TaskLog:
    """A presigned link to the standard output and error of an attempt. It exists once the attempt has ended.

    A `live` one is there some seconds after it was first asked for (S3 answers 404 until then, and as long as nothing
    is printed), and is kept up as long as it is asked for. Functions that get values have their logs at their end.
    """
    await require_job(api.database, caller, job_id)
    running = await follow_log(api.database, job_id, stage, index) if live else None
    if running is not None and attempt in (None, running):
        location = api.settings.layout.live_log(job_id, stage, index, running)
        url = await download_link(api, location, f"{job_id}-{stage}-{index}-{running}.txt")
        return TaskLog(attempt=running, uri=location.uri, url=url, running=True)
    if await session.get(tables.Task, (job_id, stage, index)) is None:
        raise _no_task(job_id, stage, index)
    logged = {each.attempt: each.log for each in await _attempts(session, job_id, stage, index) if each.log}
    number = attempt or max(logged, default=None)
    if number is None or (uri := logged.get(number)) is None:
        having = f"attempts {', '.join(map(str, logged))} have one" if logged else "no attempt has one yet"
        raise ProblemError(404, "not-found", f"there is no log of this attempt of task {stage}/{index}; {having}")
    location = Location.parse(uri)
    name = f"{job_id}-{stage}-{index}-{number}.txt"
    return TaskLog(attempt=number, uri=uri, url=await download_link(api, location, name), running=False)
