"""Time becomes jobs: delayed jobs start, schedules submit theirs."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from pydantic import ValidationError

from services.engine.audit import record_submission
from services.engine.jobs import notify_jobs, start_due_jobs
from services.engine.quotas import QuotaExceeded
from services.engine.spec import JobSpec
from services.engine.submission import submit_job
from services.platform.cron import next_time
from services.platform.database import Connection
from services.scheduler.loop import Context, passes

log = structlog.get_logger()

JOBS_MAX = 100  # per step
# A run that starts this late counts as missed: the schedule's misfire policy decides.
MISFIRE_GRACE = timedelta(seconds=60)

PUT_OFF_SECONDS = 30.0  # a due run that is over a quota is tried again after this long

# Most steps find nothing: this takes one statement and no transaction.
_ANY_DUE = """
    SELECT EXISTS (SELECT FROM jobs WHERE state = 'scheduled' AND run_at <= now())
        OR EXISTS (
            SELECT FROM schedules WHERE NOT paused AND next_run_at <= now()
              AND (put_off_at IS NULL OR put_off_at <= now() - $1 * interval '1 second'))"""

_DUE = """
    SELECT schedule_id, name, cron, time_zone, misfire, job, next_run_at, created_by, key_id, error, now() AS now
    FROM schedules
    WHERE NOT paused AND next_run_at <= now()
      AND (put_off_at IS NULL OR put_off_at <= now() - $1 * interval '1 second')
    ORDER BY next_run_at LIMIT 1 FOR UPDATE SKIP LOCKED"""


async def step(context: Context) -> bool:
    """Start due jobs and run due schedules, each in one transaction."""
    if not await context.database.fetchval(_ANY_DUE, PUT_OFF_SECONDS):
        return False
    async with context.database.acquire() as connection:
        async with connection.transaction():
            started = await start_due_jobs(connection, JOBS_MAX)
            if started:
                await notify_jobs(connection)
        async with connection.transaction():
            schedule = await connection.fetchrow(_DUE, PUT_OFF_SECONDS)
            if schedule is not None:
                await _run_schedule(connection, context, schedule)
    return schedule is not None or started == JOBS_MAX


def due_times(schedule: Any) -> tuple[list[datetime], datetime]:
    """The times to run now under the schedule's misfire policy (at most JOBS_MAX), and the next time to look."""
    now, time = schedule["now"], schedule["next_run_at"]
    due: list[datetime] = []
    while time <= now:
        if schedule["misfire"] == "run_all":
            if len(due) == JOBS_MAX:
                return due, time
            due.append(time)
        elif schedule["misfire"] == "run_once" or now - time <= MISFIRE_GRACE:
            due = [time]
        time = next_time(schedule["cron"], schedule["time_zone"], time)
    return due, time


async def _run_schedule(connection: Connection, context: Context, schedule: Any) -> None:
    try:
        times, next_run_at = due_times(schedule)
    except ValueError as invalid:  # such as a time zone that this node's database of them lacks
        await _pause(connection, schedule["schedule_id"], str(invalid))
        return
    job_id, error = None, None
    if not times:
        error = schedule["error"]  # of a run that was put off, and now counts as missed
    for time in times:
        try:
            async with connection.transaction():
                job_id = await submit_job(
                    connection,
                    JobSpec.model_validate(schedule["job"], extra="ignore"),
                    settings=context.settings,
                    schedule_id=schedule["schedule_id"],
                    run_at=time,
                    created_by=schedule["created_by"],
                    key_id=schedule["key_id"],
                )
                await record_submission(connection, schedule["created_by"], job_id, schedule=schedule["name"])
        except asyncpg.UniqueViolationError:
            continue  # this run has its job already
        except QuotaExceeded as exceeded:
            await _put_off(connection, schedule, time, job_id, str(exceeded))
            return
        except Exception as invalid:
            if passes(invalid) and not isinstance(invalid, ValidationError):
                raise
            error = str(invalid)
            log.warning("schedule failed", schedule=str(schedule["schedule_id"]), error=repr(invalid))
    await connection.execute(
        "UPDATE schedules SET next_run_at = $2, last_run_at = coalesce($3, last_run_at), "
        "last_job_id = coalesce($4, last_job_id), error = $5, put_off_at = NULL WHERE schedule_id = $1",
        schedule["schedule_id"],
        next_run_at,
        times[-1] if times else None,
        job_id,
        error,
    )


_PUT_OFF = """
    UPDATE schedules SET put_off_at = now(), next_run_at = $2, last_job_id = coalesce($3, last_job_id), error = $4
    WHERE schedule_id = $1"""


async def _put_off(connection: Connection, schedule: Any, time: datetime, job_id: UUID | None, why: str) -> None:
    """The run at `time` and those after it stay due. If they are late by then, the misfire policy decides."""
    log.warning("schedule put off", schedule=str(schedule["schedule_id"]), error=why)
    error = f"the run of {time:%Y-%m-%dT%H:%M:%SZ} is put off: {why}"
    await connection.execute(_PUT_OFF, schedule["schedule_id"], time, job_id, error)


async def _pause(connection: Connection, schedule_id: UUID, error: str) -> None:
    """Pause a schedule whose next due time can't be computed, so that it does not hold up the others."""
    log.warning("schedule paused", schedule=str(schedule_id), error=error)
    await connection.execute(
        "UPDATE schedules SET paused = true, next_run_at = NULL, error = $2 WHERE schedule_id = $1", schedule_id, error
    )
