"""Recurring submissions."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import date, datetime
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
from services.api.shapes.schedules import (
    Backfill,
    BackfillPage,
    BackfillRuns,
    BackfillSpec,
    JobTemplate,
    RunRequest,
    Schedule,
    ScheduleChange,
    SchedulePage,
    ScheduleRun,
    ScheduleRunPage,
    ScheduleSpec,
)
from services.api.strict_json import StrictRoute
from services.engine import backfills
from services.engine.errors import SpecError
from services.engine.holidays import read_holidays
from services.engine.jobs import notify_jobs
from services.engine.ownership import Thing, of_template, require_control, require_read
from services.engine.places import Reader
from services.engine.quotas import check_schedule
from services.engine.run_times import has_placeholders
from services.engine.schedules import Row, begin_run, next_undecided, note_last_run, record_pause, record_skipped
from services.engine.scope import apply_scope
from services.engine.spec import JobSpec
from services.engine.submission import resolve_stages
from services.engine.timetable import Timetable
from services.platform.database import Connection, Database, new_id
from services.platform.problems import conflict, invalid, not_found, problems

router = APIRouter(prefix="/schedules", tags=["schedules"], route_class=StrictRoute)

ScheduleId = Annotated[
    str, Path(max_length=100, description="its id or its name", examples=["01970000-0000-7000-8000-000000000000"])
]
BackfillId = Annotated[UUID, Path(examples=["01970000-0000-7000-8000-000000000000"])]

UPCOMING = 3
CALENDAR = ("not_on", "business_days", "holidays")
TIMETABLE = {"cron", "time_zone", "not_on", "business_days"}

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

CHANGES: Any = {"later": {"summary": "An hour later", "value": {"cron": "0 3 L * *"}}}
RUNS: Any = {
    "now": {"summary": "Now", "value": {}},
    "earlier": {"summary": "For an earlier time", "value": {"scheduled_at": "2026-01-31T02:00:00+01:00"}},
}

BACKFILLS: Any = {
    "year": {
        "summary": "Of last year, two at once",
        "value": {"since": "2025-01-01T00:00:00Z", "until": "2025-12-31T23:59:59Z", "running_max": 2},
    }
}

_INSERT = """
    INSERT INTO schedules (schedule_id, name, cron, time_zone, misfire, job, next_run_at, created_by, key_id, overlap,
        not_on, business_days, holidays, template)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, true) RETURNING *"""

# A name is never like an id.
_FIND = """
    SELECT *, now() AS now FROM schedules
    WHERE CASE WHEN $1::uuid IS NULL THEN name = $2 ELSE schedule_id = $1 END FOR UPDATE"""


def _show(row: Row) -> Schedule:
    following: list[datetime] = []
    if row["next_run_at"] is not None:
        following = [row["next_run_at"]]
        with suppress(ValueError):  # it will not be due any more: the clock pauses it then, and says why
            following += islice(Timetable.of(row).times(row["next_run_at"]), UPCOMING - 1)
    return Schedule.model_validate({**row, "upcoming": following})


async def _prepare_job(api: Connections, job: JobSpec, reader: Reader) -> None:
    """Raises a 422 for what can be said of the job before its schedule is there."""
    if job.run_at is not None:
        raise invalid("job.run_at", job.run_at.isoformat(), "the cron expression says when; remove run_at")
    if job.after:
        fix = "these jobs end once, and the schedule runs again and again; remove after"
        raise invalid("job.after", [str(one.job_id) for one in job.after], fix)
    try:
        await find_declared_inputs(api, job, reader)
    except SpecError as error:
        raise invalid(f"job.{error.field}", error.value, error.fix) from error
    await check_results_place(api, job.results, "job.results")
    if job.output_queue is not None:
        await check_queue(api, job.output_queue, "job.output_queue")


async def _scoped_job(
    connection: Connection, api: Connections, caller: Caller, job: JobTemplate, readers: set[Reader]
) -> dict[str, Any]:
    """The job as it is stored, within the caller's limits; each of the readers may read what it names. Raises a 422."""
    try:
        scoped = apply_scope(caller, job.sample)
        for reader in readers:
            await resolve_stages(connection, scoped, api.settings, reader)
    except SpecError as error:
        raise invalid(f"job.{error.field}", error.value, error.fix) from error
    return scoped.stored() if not has_placeholders(job.written) else _scoped_template(caller, job.written, scoped)


def _scoped_template(caller: Caller, written: dict[str, Any], scoped: JobSpec) -> dict[str, Any]:
    """The template with what the caller's limits decide, which no placeholder can stand for."""
    stages = [stage | {"pool": limited.pool} for stage, limited in zip(written["stages"], scoped.stages, strict=True)]
    limits = {"share": scoped.share, "priority": scoped.priority, "stages": stages}
    labels = {**written.get("labels", {}), **caller.labels}
    return written | limits | {"labels": labels}


async def _read_holidays(ical: str | None, now: datetime) -> list[date]:
    """Raises a 422."""
    try:
        return [] if ical is None else await asyncio.to_thread(read_holidays, ical, now.date())
    except ValueError as error:
        raise invalid("ical", ical, str(error)) from error


def _first_time(timetable: Row, after: datetime) -> datetime:
    """Raises a 422 if the calendar leaves no time."""
    try:
        return Timetable.of(timetable).next(after)
    except ValueError as error:
        raise invalid("not_on", timetable["not_on"], str(error)) from error


def _name_taken(name: str | None) -> Exception:
    return conflict(f"there is a schedule named {name!r}; delete it or choose another name")


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
    caller = creation.caller

    async def prepare() -> None:
        await _prepare_job(api, spec.job.sample, caller.reader)

    async def create(connection: Connection) -> Schedule:
        job = await _scoped_job(connection, api, caller, spec.job, {caller.reader})
        await check_schedule(connection, api.settings, caller.key_id)
        now = await connection.fetchval("SELECT now()")
        timetable = {**spec.model_dump(include=TIMETABLE), "holidays": await _read_holidays(spec.ical, now)}
        try:
            row = await connection.fetchrow(
                _INSERT,
                new_id(),
                spec.name,
                spec.cron,
                spec.time_zone,
                spec.misfire,
                job,
                _first_time(timetable, now),
                caller.principal,
                caller.key_id,
                spec.overlap,
                spec.not_on,
                spec.business_days,
                timetable["holidays"],
            )
        except asyncpg.UniqueViolationError as error:
            raise _name_taken(spec.name) from error
        assert row is not None
        await caller.record(connection, row["schedule_id"], name=spec.name, cron=spec.cron)
        await notify_jobs(connection)
        return _show(row)

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


async def _find(connection: Connection | Database, id_or_name: str) -> tuple[Record, Thing]:
    """The schedule, locked until the transaction ends. Raises a 404."""
    try:
        schedule_id = UUID(id_or_name)
    except ValueError:
        schedule_id = None
    row = await connection.fetchrow(_FIND, schedule_id, id_or_name)
    if row is None:
        raise not_found("schedule", id_or_name)
    return row, of_template("schedule", id_or_name, row["created_by"], row["job"])


@asynccontextmanager
async def _controlling(
    caller: Caller, api: Connections, id_or_name: str, **summary: Any
) -> AsyncIterator[tuple[Connection, Record]]:
    """A transaction that changes the schedule, and says so in the audit log. Raises a 404, Forbidden."""
    async with api.transaction() as connection:
        row, thing = await _find(connection, id_or_name)
        require_control(caller, thing)
        yield connection, row
        await caller.record(connection, row["schedule_id"], name=row["name"], **summary)


@router.get("/{schedule_id}", operation_id="get_schedule", responses=problems(404), summary="Inspect a schedule")
async def get_schedule(caller: Viewer, api: Api, schedule_id: ScheduleId) -> Schedule:
    """A schedule with its next runs."""
    row, thing = await _find(api.database, schedule_id)
    require_read(caller, thing)
    return _show(row)


_CHANGE = """
    UPDATE schedules SET name = $2, cron = $3, time_zone = $4, misfire = $5, job = $6, next_run_at = $7, paused_at = $8,
        overlap = $9, not_on = $10, business_days = $11, holidays = $12,
        template = template OR $13, error = CASE WHEN job = $6 THEN error END
    WHERE schedule_id = $1 RETURNING *"""


@router.patch(
    "/{schedule_id}",
    operation_id="change_schedule",
    responses=problems(*BODY, 404, 409),
    summary="Change a schedule",
)
async def change_schedule(
    caller: Submitter,
    api: Api,
    schedule_id: ScheduleId,
    change: Annotated[ScheduleChange, Body(openapi_examples=CHANGES)],
) -> Schedule:
    """Change what is given, from the next run on; jobs that were submitted stay as they are.

    A run that is due already, but not submitted yet, still takes place. The schedule stays its owner's.
    """
    if change.job is not None:
        await _prepare_job(api, change.job.sample, caller.reader)
    given = change.model_dump(include=change.changes - {"job", "ical"})
    said = given if change.job is None else given | {"job": change.job.sample.name}
    async with _controlling(caller, api, schedule_id, changes=said) as (connection, row):
        new = {**row, **given}
        if change.job is not None:
            readers = {caller.reader, Reader(row["created_by"], row["key_id"])}
            new["job"] = await _scoped_job(connection, api, caller, change.job, readers)
        if "ical" in change.changes:
            new["holidays"] = await _read_holidays(change.ical, row["now"])
        if {*TIMETABLE, "ical"} & change.changes:
            new |= await _replan(connection, row, new)
        values = (
            new[name]
            for name in (
                "name",
                "cron",
                "time_zone",
                "misfire",
                "job",
                "next_run_at",
                "paused_at",
                "overlap",
                *CALENDAR,
            )
        )
        try:
            changed = await connection.fetchrow(_CHANGE, row["schedule_id"], *values, change.job is not None)
        except asyncpg.UniqueViolationError as error:
            raise _name_taken(change.name) from error
        assert changed is not None
        await notify_jobs(connection)
        return _show(changed)


async def _replan(connection: Connection, row: Record, new: Row) -> dict[str, Any]:
    """When the schedule runs next if its times change now, and since when it is paused."""
    now = row["now"]
    _first_time(new, now)
    if row["paused"]:
        await record_pause(connection, row, now)
        return {"paused_at": now}
    if row["next_run_at"] <= now:
        return {}
    return {"next_run_at": await _next_run(connection, new, now)}


async def _next_run(connection: Connection, row: Row, after: datetime) -> datetime:
    """Raises a 409 if the schedule is not due any more."""
    try:
        return await next_undecided(connection, row, after)
    except ValueError as error:
        raise conflict(f"the schedule has no next run: {error}; change its times") from error


@router.delete(
    "/{schedule_id}",
    operation_id="delete_schedule",
    status_code=204,
    responses=problems(404),
    summary="Delete a schedule",
)
async def delete_schedule(caller: Submitter, api: Api, schedule_id: ScheduleId) -> None:
    """Delete a schedule with the record of its runs; jobs that it has submitted stay."""
    async with _controlling(caller, api, schedule_id) as (connection, row):
        await connection.execute("DELETE FROM schedules WHERE schedule_id = $1", row["schedule_id"])


# What is due by now, but was not submitted yet, is missed because of the pause, too.
_PAUSE = """
    UPDATE schedules SET paused = true, next_run_at = NULL,
        paused_at = CASE WHEN paused THEN paused_at ELSE least(now(), next_run_at - interval '1 second') END
    WHERE schedule_id = $1 RETURNING *"""


@router.post("/{schedule_id}/pause", operation_id="pause_schedule", responses=problems(404), summary="Pause a schedule")
async def pause_schedule(caller: Submitter, api: Api, schedule_id: ScheduleId) -> Schedule:
    """Submit nothing by the clock until the schedule is resumed."""
    async with _controlling(caller, api, schedule_id) as (connection, row):
        paused = await connection.fetchrow(_PAUSE, row["schedule_id"])
        assert paused is not None
        return _show(paused)


_RESUME = """
    UPDATE schedules SET paused = false, paused_at = NULL, next_run_at = $2 WHERE schedule_id = $1 RETURNING *"""


@router.post(
    "/{schedule_id}/resume", operation_id="resume_schedule", responses=problems(404), summary="Resume a schedule"
)
async def resume_schedule(caller: Submitter, api: Api, schedule_id: ScheduleId) -> Schedule:
    """Continue with the next due time; runs missed during the pause are recorded, and not made up for."""
    async with _controlling(caller, api, schedule_id) as (connection, row):
        if not row["paused"]:
            return _show(row)
        next_run_at = await _next_run(connection, row, row["now"])
        await record_pause(connection, row, row["now"])
        resumed = await connection.fetchrow(_RESUME, row["schedule_id"], next_run_at)
        await notify_jobs(connection)
        assert resumed is not None
        return _show(resumed)


_NEXT = "UPDATE schedules SET next_run_at = $2 WHERE schedule_id = $1 RETURNING *"


@router.post(
    "/{schedule_id}/skip", operation_id="skip_next_run", responses=problems(404, 409), summary="Skip the next run"
)
async def skip_next_run(caller: Submitter, api: Api, schedule_id: ScheduleId) -> Schedule:
    """Leave out the next run, and no other. Each request skips one more."""
    async with _controlling(caller, api, schedule_id) as (connection, row):
        if row["paused"]:
            raise conflict(f"the schedule {row['name']} is paused: it has no next run; resume it first")
        await record_skipped(connection, row["schedule_id"], [row["next_run_at"]], "request")
        following = await _next_run(connection, row, row["next_run_at"])
        skipped = await connection.fetchrow(_NEXT, row["schedule_id"], following)
        assert skipped is not None
        return _show(skipped)


_RUN = "SELECT * FROM schedule_runs WHERE schedule_id = $1 AND scheduled_at = $2"
_JOBS = "SELECT job_id, state AS job_state, started_at, finished_at FROM jobs WHERE job_id = ANY($1::uuid[])"


async def _show_runs(database: Connection | Database, runs: list[dict[str, Any]]) -> list[ScheduleRun]:
    """The runs with what their jobs say."""
    jobs = {job["job_id"]: job for job in await database.fetch(_JOBS, [run["job_id"] for run in runs if run["job_id"]])}
    shown = []
    for run in runs:
        job = dict(jobs.get(run["job_id"]) or dict.fromkeys(("job_state", "started_at", "finished_at")))
        late = (job["started_at"] - run["scheduled_at"]).total_seconds() if job["started_at"] else None
        shown.append(ScheduleRun.model_validate({**run, **job, "late_seconds": late, "job_id": run["job_id"]}))
    return shown


@router.post(
    "/{schedule_id}/runs",
    operation_id="run_schedule",
    status_code=201,
    response_model=ScheduleRun,
    responses=problems(*BODY, 404, 409),
    summary="Run a schedule now",
)
async def run_schedule(
    creation: Submission,
    api: Api,
    schedule_id: ScheduleId,
    request: Annotated[RunRequest, Body(openapi_examples=RUNS)],
) -> Response:
    """Submit the schedule's job now, as a run for `scheduled_at`, or for this moment. The clock goes on as before.

    A paused schedule can be run, too. The overlap rule holds, so the run may have to wait for its turn. A run that was
    skipped or refused can be made up for by its `scheduled_at`; one that has a job gets no other. The job belongs to
    the schedule's owner.
    """

    async def create(connection: Connection) -> ScheduleRun:
        row, thing = await _find(connection, schedule_id)
        require_control(creation.caller, thing)
        scheduled_at = request.scheduled_at or row["now"]
        if scheduled_at > row["now"]:
            fix = f"this time is still to come (it is {row['now']:%Y-%m-%dT%H:%M:%SZ}); leave it out to run now"
            raise invalid("scheduled_at", scheduled_at.isoformat(), fix)
        try:
            async with connection.transaction():
                begun = await begin_run(
                    connection, api.settings, row, scheduled_at, origin="request", instead_of=("skipped", "refused")
                )
        except asyncpg.UniqueViolationError:
            begun = None
        except ValueError as error:
            raise conflict(f"the schedule's job can't be submitted: {error}; change the schedule") from error
        if begun is None:
            fix = "list the schedule's runs: retry its job, or submit the job again by itself"
            raise conflict(f"the run of {scheduled_at.isoformat()} has its job already, or waits; {fix}")
        if begun.state == "skipped":
            raise conflict(
                f"the overlap rule is {row['overlap']}, and jobs of the schedule run or wait: end them first"
            )
        job_id = begun.job_id
        if job_id is not None:
            await note_last_run(connection, row["schedule_id"], scheduled_at, job_id)
        summary = {"name": row["name"], "scheduled_at": scheduled_at.isoformat(), "job": job_id and str(job_id)}
        await creation.caller.record(connection, row["schedule_id"], **summary)
        run = await connection.fetchrow(_RUN, row["schedule_id"], scheduled_at)
        [shown] = await _show_runs(connection, [dict(run or {})])
        return shown

    return await creation.once(create)


@router.get(
    "/{schedule_id}/runs",
    operation_id="list_schedule_runs",
    responses=problems(404),
    summary="List the runs of a schedule",
)
async def list_schedule_runs(
    caller: Viewer, api: Api, session: Session, pages: Pages, schedule_id: ScheduleId
) -> ScheduleRunPage:
    """What became of the schedule's runs, by the time at which they were due, the latest first."""
    row, thing = await _find(api.database, schedule_id)
    require_read(caller, thing)
    run = tables.ScheduleRun
    statement = select(run).where(run.schedule_id == row["schedule_id"])
    rows, next_cursor = await pages.fetch(session, statement, run.scheduled_at, newest_first=True)
    return ScheduleRunPage(
        items=await _show_runs(api.database, [each.model_dump() for each in rows]), next_cursor=next_cursor
    )


_COUNT = """
    SELECT backfill_id, state, count(*)::integer AS runs FROM schedule_runs WHERE backfill_id = ANY($1::uuid[])
    GROUP BY backfill_id, state"""
_BACKFILL = "SELECT * FROM schedule_backfills WHERE backfill_id = $1"


async def _show_backfills(database: Connection | Database, rows: list[dict[str, Any]]) -> list[Backfill]:
    counted = {row["backfill_id"]: dict.fromkeys(BackfillRuns.model_fields, 0) for row in rows}
    for count in await database.fetch(_COUNT, list(counted)):
        counted[count["backfill_id"]][count["state"]] = count["runs"]
    return [Backfill.model_validate(row | {"runs": counted[row["backfill_id"]]}) for row in rows]


async def _show_backfill(connection: Connection, backfill_id: UUID) -> Backfill:
    row = await connection.fetchrow(_BACKFILL, backfill_id)
    [shown] = await _show_backfills(connection, [dict(row or {})])
    return shown


@router.post(
    "/{schedule_id}/backfills",
    operation_id="create_backfill",
    status_code=201,
    response_model=Backfill,
    responses=problems(*BODY, 404, 409),
    summary="Make up for the runs of a range",
)
async def create_backfill(
    creation: Submission,
    api: Api,
    schedule_id: ScheduleId,
    spec: Annotated[BackfillSpec, Body(openapi_examples=BACKFILLS)],
) -> Response:
    """Run the schedule for each of its times from `since` until `until`, at most 1,000, the earliest first.

    Each run takes place once: one that has a job already is left out, and one that was skipped or refused is made up
    for. The overlap rule does not count these runs, and a pause of the schedule does not hold them.
    """

    async def create(connection: Connection) -> Backfill:
        row, thing = await _find(connection, schedule_id)
        require_control(creation.caller, thing)
        limits = (spec.since, spec.until, spec.running_max)
        backfill_id = await backfills.create_backfill(connection, row, *limits, creation.caller.principal)
        summary = {"name": row["name"], "backfill": str(backfill_id), **spec.model_dump(mode="json")}
        await creation.caller.record(connection, row["schedule_id"], **summary)
        await notify_jobs(connection)
        return await _show_backfill(connection, backfill_id)

    return await creation.once(create)


@router.get(
    "/{schedule_id}/backfills",
    operation_id="list_backfills",
    responses=problems(404),
    summary="List the backfills of a schedule",
)
async def list_backfills(
    caller: Viewer, api: Api, session: Session, pages: Pages, schedule_id: ScheduleId
) -> BackfillPage:
    """The backfills of a schedule with the numbers of their runs, the latest first."""
    row, thing = await _find(api.database, schedule_id)
    require_read(caller, thing)
    backfill = tables.ScheduleBackfill
    statement = select(backfill).where(backfill.schedule_id == row["schedule_id"])
    rows, next_cursor = await pages.fetch(session, statement, backfill.backfill_id, newest_first=True)
    items = await _show_backfills(api.database, [each.model_dump() for each in rows])
    return BackfillPage(items=items, next_cursor=next_cursor)


@router.post(
    "/{schedule_id}/backfills/{backfill_id}/cancel",
    operation_id="cancel_backfill",
    responses=problems(404),
    summary="Cancel a backfill",
)
async def cancel_backfill(caller: Submitter, api: Api, schedule_id: ScheduleId, backfill_id: BackfillId) -> Backfill:
    """Skip those of its runs that wait; jobs that it has submitted go on. Safe to repeat."""
    async with _controlling(caller, api, schedule_id, backfill=str(backfill_id)) as (connection, row):
        await backfills.cancel_backfill(connection, row, backfill_id)
        return await _show_backfill(connection, backfill_id)
