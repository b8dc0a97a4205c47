"""Recurring submissions."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

import asyncpg
from asyncpg import Record
from fastapi import APIRouter, Body, Path, Response
from sqlmodel import col, select

from services.api import tables
from services.api.connections import Api, Connections, Session
from services.api.idempotency import Submission
from services.api.inputs import find_declared_inputs
from services.api.pagination import Pages
from services.api.problems import BODY
from services.api.queues import check_queue
from services.api.results_place import check_results_place
from services.api.security import Caller, OfOwners, Submitter, Viewer, scope_filter
from services.api.shapes.schedules import Schedule, SchedulePage, ScheduleSpec
from services.api.strict_json import StrictRoute
from services.engine.errors import SpecError
from services.engine.jobs import notify_jobs
from services.engine.ownership import Thing, of_template, require_control, require_read
from services.engine.quotas import check_schedule
from services.engine.scope import apply_scope
from services.engine.submission import resolve_stages
from services.platform.cron import due_times, next_time
from services.platform.database import Connection, Database, new_id
from services.platform.problems import conflict, invalid, not_found, problems

router = APIRouter(prefix="/schedules", tags=["schedules"], route_class=StrictRoute)

ScheduleId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

UPCOMING = 3

EXAMPLES: Any = {
    "month-end": {
        "summary": "On the last day of each month at 02:00 in Berlin",
        "description": "Needs the processor `noop`: send the example of `register_processor` first.",
        "value": {
            "name": "month-end",
            "cron": "0 2 L * *",
            "time_zone": "Europe/Berlin",
            "misfire": "run_once",
            "job": {"name": "month-end", "input": {"type": "range", "count": 10}, "stages": [{"processor": "noop"}]},
        },
    },
}

_INSERT = """
    INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, next_run_at, created_by, key_id)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING *"""

_FIND = "SELECT *, now() AS now FROM schedules WHERE schedule_id = $1 FOR UPDATE"


def _show(row: dict[str, Any]) -> Schedule:
    upcoming: list[datetime] = []
    if row["next_run_at"] is not None:
        later = due_times(row["cron"], row["time_zone"], row["next_run_at"])
        upcoming = [row["next_run_at"], *islice(later, UPCOMING - 1)]
    return Schedule.model_validate(row | {"upcoming": upcoming})


@router.post(
    "",
    operation_id="create_schedule",
    status_code=201,
    response_model=Schedule,
    responses=problems(*BODY, 409),
    summary="Create a schedule",
)
async def create_schedule(
    creation: Submission, api: Api, spec: Annotated[ScheduleSpec, Body(openapi_examples=EXAMPLES)]
) -> Response:
    """Submit a job repeatedly, at the times of a cron expression in a time zone.

    A time of day that a daylight-saving change skips runs right after the gap; one that it repeats runs once. If the
    grid was down, `misfire` says which missed runs to make up for: the last (`run_once`), all (`run_all`) or none
    (`skip`). Schedule and jobs belong to the key's principal.
    """

    async def create(connection: Connection) -> Schedule:
        if spec.job.run_at is not None:
            raise invalid("job.run_at", spec.job.run_at.isoformat(), "the cron expression says when; remove run_at")
        if spec.job.after:
            fix = "these jobs end once, and the schedule runs again and again; remove after"
            raise invalid("job.after", [str(one.job_id) for one in spec.job.after], fix)
        try:
            job = apply_scope(creation.caller, spec.job)
            await resolve_stages(connection, job, api.settings, creation.caller.reader)
        except SpecError as error:
            raise invalid(f"job.{error.field}", error.value, error.fix) from error
        await check_schedule(connection, api.settings, creation.caller.key_id)
        now = await connection.fetchval("SELECT now()")
        try:
            row = await connection.fetchrow(
                _INSERT,
                new_id(),
                spec.name,
                spec.cron,
                spec.time_zone,
                spec.misfire,
                job.stored(),
                next_time(spec.cron, spec.time_zone, now),
                creation.caller.principal,
                creation.caller.key_id,
            )
        except asyncpg.UniqueViolationError as error:
            raise conflict(f"there is a schedule named {spec.name!r}; delete it or choose another name") from error
        assert row is not None
        await creation.caller.record(connection, row["schedule_id"], name=spec.name, cron=spec.cron)
        await notify_jobs(connection)
        return _show(dict(row))

    async def prepare() -> None:
        try:
            await find_declared_inputs(api, spec.job, creation.caller.reader)
        except SpecError as error:
            raise invalid(f"job.{error.field}", error.value, error.fix) from error
        await check_results_place(api, spec.job.results, "job.results")
        if spec.job.output_queue is not None:
            await check_queue(api, spec.job.output_queue, "job.output_queue")

    return await creation.once(create, prepare=prepare)


@router.get("", operation_id="list_schedules", summary="List schedules")
async def list_schedules(caller: Viewer, session: Session, pages: Pages, owners: OfOwners) -> SchedulePage:
    """Schedules, newest first. A key with shares or labels sees only those whose jobs have them."""
    schedule = tables.Schedule
    job = col(schedule.job)
    scope = scope_filter(caller, job["share"].astext, job["labels"])
    statement = select(schedule).where(*scope, *owners.filter(caller, schedule.created_by))
    rows, next_cursor = await pages.fetch(session, statement, schedule.schedule_id, newest_first=True)
    return SchedulePage(items=[_show(row.model_dump()) for row in rows], next_cursor=next_cursor)


async def _find(connection: Connection | Database, schedule_id: UUID) -> tuple[Record, Thing]:
    """The schedule, locked until the transaction ends. Raises a 404."""
    row = await connection.fetchrow(_FIND, schedule_id)
    if row is None:
        raise not_found("schedule", schedule_id)
    return row, of_template("schedule", schedule_id, row["created_by"], row["job"])


@asynccontextmanager
async def _controlling(caller: Caller, api: Connections, schedule_id: UUID) -> AsyncIterator[tuple[Connection, Record]]:
    """A transaction that changes the schedule, and says so in the audit log. Raises a 404, Forbidden."""
    async with api.transaction() as connection:
        row, thing = await _find(connection, schedule_id)
        require_control(caller, thing)
        yield connection, row
        await caller.record(connection, schedule_id, name=row["name"])


@router.get("/{schedule_id}", operation_id="get_schedule", responses=problems(404), summary="Inspect a schedule")
async def get_schedule(caller: Viewer, api: Api, schedule_id: ScheduleId) -> Schedule:
    """A schedule with its next runs."""
    row, thing = await _find(api.database, schedule_id)
    require_read(caller, thing)
    return _show(dict(row))


@router.delete(
    "/{schedule_id}",
    operation_id="delete_schedule",
    status_code=204,
    responses=problems(404),
    summary="Delete a schedule",
)
async def delete_schedule(caller: Submitter, api: Api, schedule_id: ScheduleId) -> None:
    """Delete a schedule; jobs that it has submitted stay."""
    async with _controlling(caller, api, schedule_id) as (connection, _):
        await connection.execute("DELETE FROM schedules WHERE schedule_id = $1", schedule_id)


@router.post("/{schedule_id}/pause", operation_id="pause_schedule", responses=problems(404), summary="Pause a schedule")
async def pause_schedule(caller: Submitter, api: Api, schedule_id: ScheduleId) -> Schedule:
    """Submit nothing until the schedule is resumed."""
    async with _controlling(caller, api, schedule_id) as (connection, _):
        row = await connection.fetchrow(
            "UPDATE schedules SET paused = true, next_run_at = NULL WHERE schedule_id = $1 RETURNING *", schedule_id
        )
        return _show(dict(row or {}))


@router.post(
    "/{schedule_id}/resume", operation_id="resume_schedule", responses=problems(404), summary="Resume a schedule"
)
async def resume_schedule(caller: Submitter, api: Api, schedule_id: ScheduleId) -> Schedule:
    """Continue with the next due time; runs missed during the pause are not made up for."""
    async with _controlling(caller, api, schedule_id) as (connection, row):
        if not row["paused"]:
            return _show(dict(row))
        resumed = await connection.fetchrow(
            "UPDATE schedules SET paused = false, next_run_at = $2 WHERE schedule_id = $1 RETURNING *",
            schedule_id,
            next_time(row["cron"], row["time_zone"], row["now"]),
        )
        await notify_jobs(connection)
        return _show(dict(resumed or {}))
