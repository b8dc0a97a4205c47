"""Time becomes jobs: delayed jobs start, and those whose predecessors have ended; schedules submit theirs."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from asyncpg import Record
from pydantic import ValidationError

from services.contract.states import RunOrigin, RunState
from services.engine import dependencies
from services.engine.audit import record_submission
from services.engine.backfills import end_backfills, next_backfilled
from services.engine.jobs import notify_jobs, start_due_jobs
from services.engine.quotas import QuotaExceeded
from services.engine.schedules import (
    begin_run,
    forget_old_runs,
    next_waiting,
    note_last_run,
    record_refused,
    record_skipped,
)
from services.engine.timetable import Timetable
from services.platform.database import Connection
from services.scheduler.loop import Context, passes
from services.scheduler.slots import Slots

log = structlog.get_logger()

JOBS_MAX = 100  # per step
RUNS_AT_ONCE = 8  # of schedules, each in a transaction of its own
LOOKED_AT_MAX = 64  # of the due schedules that have waited longest, from which schedulers choose at random
MISSED_MAX = 1_000  # of a schedule, per turn
# A run that came due this long before schedulers began to look is missed: the schedule's misfire policy decides. One
# that came due while they looked is not, however long the line before it. So long a gap between looks ends the looking.
MISFIRE_GRACE = timedelta(seconds=60)
_LOOK_SECONDS = 5.0  # a look is recorded no more often

PUT_OFF_SECONDS = 30.0  # a due run that is over a quota is tried again after this long
REST_SECONDS = 5.0  # so is one that the database refused, or for which it waited in vain

# Most steps find nothing: this takes one statement and no transaction.
_LOOK = """
    WITH looked AS (
        UPDATE clock SET looked_at = now(),
            looking_since = CASE WHEN looked_at < now() - $2::interval THEN now() ELSE looking_since END
        WHERE singleton = (
            SELECT singleton FROM clock WHERE looked_at < now() - $3 * interval '1 second' FOR UPDATE SKIP LOCKED)
        RETURNING looking_since
    )
    SELECT coalesce((SELECT looking_since FROM looked), (SELECT looking_since FROM clock)) AS looking_since,
        EXISTS (SELECT FROM jobs WHERE state = 'scheduled' AND run_at <= now()) AS jobs,
        EXISTS (SELECT FROM job_dependencies WHERE ended IS NOT NULL AND NOT seen) AS predecessors,
        ARRAY(
            SELECT schedule_id FROM schedules
            WHERE NOT paused AND next_run_at <= now() AND schedule_id <> ALL($4::uuid[])
              AND (put_off_at IS NULL OR put_off_at <= now() - $1 * interval '1 second')
            ORDER BY next_run_at LIMIT $5) AS schedules,
        ARRAY(
            SELECT DISTINCT s.schedule_id FROM schedule_runs AS r JOIN schedules AS s USING (schedule_id)
            WHERE r.state = 'waiting' AND r.backfill_id IS NULL AND (r.origin = 'request' OR NOT s.paused)
              AND s.schedule_id <> ALL($4::uuid[])
              AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
              AND (s.overlap = 'allow' OR NOT EXISTS (
                SELECT FROM jobs AS j
                WHERE j.schedule_id = s.schedule_id AND j.state NOT IN ('succeeded', 'failed', 'cancelled')
                  AND NOT EXISTS (
                    SELECT FROM schedule_runs AS b WHERE b.schedule_id = j.schedule_id AND b.scheduled_at = j.run_at
                        AND b.backfill_id IS NOT NULL)))
            LIMIT $5) AS waiting,
        ARRAY(
            SELECT DISTINCT s.schedule_id FROM schedule_backfills AS f JOIN schedules AS s USING (schedule_id)
            WHERE f.ended_at IS NULL AND s.schedule_id <> ALL($4::uuid[])
              AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
              AND f.running_max > (
                SELECT count(*) FROM jobs AS j JOIN schedule_runs AS b
                    ON b.schedule_id = j.schedule_id AND b.scheduled_at = j.run_at
                WHERE j.schedule_id = f.schedule_id AND j.state NOT IN ('succeeded', 'failed', 'cancelled')
                    AND b.backfill_id = f.backfill_id)
            LIMIT $5) AS backfilled"""

_DUE = """
    SELECT schedule_id, name, cron, time_zone, not_on, business_days, holidays, misfire, job, template, overlap, paused,
        next_run_at, created_by, key_id, error, put_off_at, now() AS now, NOT paused AND next_run_at <= now() AS due
    FROM schedules
    WHERE schedule_id = $2
      AND (put_off_at IS NULL OR put_off_at <= now() - $1 * interval '1 second')
    FOR UPDATE SKIP LOCKED"""


async def step(context: Context) -> bool:
    """Start due jobs and some due schedules, none of which waits for another; True if there may be more."""
    slots: Slots[UUID] = context.slots["clock"]
    look = await context.database.fetchrow(
        _LOOK, PUT_OFF_SECONDS, MISFIRE_GRACE, _LOOK_SECONDS, slots.keys, LOOKED_AT_MAX
    )
    assert look is not None
    started = 0
    if look["jobs"]:
        async with context.database.acquire() as connection, connection.transaction():
            started = await start_due_jobs(connection, JOBS_MAX)
            if started:
                await notify_jobs(connection)
    settled = await _settle_jobs(context) if look["predecessors"] else 0
    due: list[UUID] = list({*look["schedules"], *look["waiting"], *look["backfilled"]})
    chosen = random.sample(due, min(len(due), max(RUNS_AT_ONCE - len(slots), 0)))
    await slots.advance({each: _run_schedule(context, each, look["looking_since"]) for each in chosen})
    return bool(due) or JOBS_MAX in (started, settled)


async def _settle_jobs(context: Context) -> int:
    """What ends of predecessors mean for the jobs that waited, each in a transaction of its own; returns how many."""
    async with context.database.acquire() as connection:
        news = await dependencies.find_news(connection, JOBS_MAX)
        for job_id in news:
            async with connection.transaction():
                await dependencies.settle(connection, job_id)
        return len(news)


@dataclass(frozen=True, slots=True)
class DueRuns:
    """What is due of a schedule: the times to run now, those to skip, and the next time to look."""

    times: list[datetime]
    skipped: list[datetime]
    next_run_at: datetime


def due_runs(schedule: Mapping[str, Any], looking_since: datetime) -> DueRuns:
    """What is due under the schedule's misfire policy: at most JOBS_MAX runs, and MISSED_MAX to skip."""
    now, misfire = schedule["now"], schedule["misfire"]
    # What was put off waited for a quota, not in a line: it counts as missed once it is late.
    missed_before = (now if schedule["put_off_at"] else looking_since) - MISFIRE_GRACE
    times: list[datetime] = []
    missed: list[datetime] = []
    following = Timetable.of(schedule).times(schedule["next_run_at"])
    for time in chain([schedule["next_run_at"]], following):
        if time > now or len(times) == JOBS_MAX or len(missed) == MISSED_MAX:
            if misfire == "run_once" and missed and not times and time > now:
                times = [missed.pop()]
            return DueRuns(times, missed, time)
        (missed if time < missed_before and misfire != "run_all" else times).append(time)
    raise ValueError(f"{schedule['cron']!r} is never due again")


async def _run_schedule(context: Context, schedule_id: UUID, looking_since: datetime) -> None:
    """Submit what is due, in one transaction. What the database refuses rests, and others have their turns."""
    try:
        async with context.database.acquire() as connection, connection.transaction():
            schedule = await connection.fetchrow(_DUE, PUT_OFF_SECONDS, schedule_id)
            if schedule is None:
                return
            if schedule["due"]:
                await _run(connection, context, schedule, looking_since)
            else:
                await _run_waiting(connection, context, schedule)
    except Exception:
        context.slots["clock"].rest(schedule_id, REST_SECONDS)
        raise


async def _run(connection: Connection, context: Context, schedule: Record, looking_since: datetime) -> None:
    try:
        due = due_runs(dict(schedule), looking_since)
    except ValueError as invalid:  # such as a time zone that this node's database of them lacks
        await _pause(connection, schedule["schedule_id"], str(invalid))
        return
    if due.skipped:
        await _skip(connection, schedule, due.skipped)
    ran, job_id, error = None, None, None
    if not due.times:
        error = schedule["error"]  # of a run that was put off, and now counts as missed
    for time in due.times:
        try:
            began, refused = await _begin(connection, context, schedule, time, "clock")
        except QuotaExceeded as exceeded:
            await _put_off(connection, schedule, time, ran, job_id, exceeded)
            return
        if began is not None:
            ran, job_id = time, began
        error = refused or error
    await forget_old_runs(connection, schedule["schedule_id"])
    await connection.execute(
        "UPDATE schedules SET next_run_at = $2, last_run_at = coalesce($3, last_run_at), "
        "last_job_id = coalesce($4, last_job_id), error = $5, put_off_at = NULL WHERE schedule_id = $1",
        schedule["schedule_id"],
        due.next_run_at,
        ran,
        job_id,
        error,
    )


async def _begin(
    connection: Connection,
    context: Context,
    schedule: Record,
    time: datetime,
    origin: RunOrigin,
    *,
    waited: bool = False,
) -> tuple[UUID | None, str | None]:
    """Begin a run: its job, if it has got one now, and why it was refused. Raises QuotaExceeded, and what passes."""
    states: tuple[RunState, ...] = ("waiting",) if waited else ("refused",)
    try:
        async with connection.transaction():
            begun = await begin_run(
                connection, context.settings, schedule, time, origin=origin, instead_of=states, waited=waited
            )
            if begun is None or begun.job_id is None:
                return None, None
            await record_submission(connection, schedule["created_by"], begun.job_id, schedule=schedule["name"])
            return begun.job_id, None
    except asyncpg.UniqueViolationError:
        return None, None  # an earlier release has submitted this run's job
    except QuotaExceeded:
        raise
    except Exception as invalid:
        if passes(invalid) and not isinstance(invalid, ValidationError):
            raise
        log.warning("schedule failed", schedule=str(schedule["schedule_id"]), error=repr(invalid))
        await record_refused(connection, schedule["schedule_id"], time, str(invalid))
        return None, str(invalid)


_BEGAN = "UPDATE schedules SET error = $2, put_off_at = NULL WHERE schedule_id = $1"
_WAITS = "UPDATE schedules SET put_off_at = now(), error = $2 WHERE schedule_id = $1"


async def _run_waiting(connection: Connection, context: Context, schedule: Record) -> None:
    """Begin a run that waits and may: for the end of an earlier one, or as one of a backfill."""
    run = await next_waiting(connection, schedule) or await next_backfilled(connection, schedule)
    if run is None:
        await end_backfills(connection, schedule)
        return
    try:
        began, error = await _begin(connection, context, schedule, run["scheduled_at"], run["origin"], waited=True)
    except QuotaExceeded as exceeded:
        await connection.execute(_WAITS, schedule["schedule_id"], _say_put_off(run["scheduled_at"], exceeded))
        return
    await connection.execute(_BEGAN, schedule["schedule_id"], error)
    if began is not None and run["origin"] != "backfill":
        await note_last_run(connection, schedule["schedule_id"], run["scheduled_at"], began)
    await end_backfills(connection, schedule)


def _say_put_off(time: datetime, why: QuotaExceeded) -> str:
    return f"the run of {time:%Y-%m-%dT%H:%M:%SZ} is put off: {why}"


async def _skip(connection: Connection, schedule: Record, missed: list[datetime]) -> None:
    """Record runs that are not made up for."""
    log.warning(
        "runs skipped",
        schedule=str(schedule["schedule_id"]),
        runs=len(missed),
        first=str(missed[0]),
        last=str(missed[-1]),
    )
    skipped = await record_skipped(connection, schedule["schedule_id"], missed, "missed")
    await connection.execute(
        "UPDATE schedules SET runs_skipped = runs_skipped + $2, last_skipped_at = $3 WHERE schedule_id = $1",
        schedule["schedule_id"],
        skipped,
        missed[-1],
    )


_PUT_OFF = """
    UPDATE schedules SET put_off_at = now(), next_run_at = $2, last_run_at = coalesce($3, last_run_at),
        last_job_id = coalesce($4, last_job_id), error = $5
    WHERE schedule_id = $1"""


async def _put_off(
    connection: Connection,
    schedule: Record,
    time: datetime,
    ran: datetime | None,
    job_id: UUID | None,
    why: QuotaExceeded,
) -> None:
    """The run at `time` and those after it stay due. If they are late by then, the misfire policy decides."""
    log.warning("schedule put off", schedule=str(schedule["schedule_id"]), error=str(why))
    await connection.execute(_PUT_OFF, schedule["schedule_id"], time, ran, job_id, _say_put_off(time, why))


async def _pause(connection: Connection, schedule_id: UUID, error: str) -> None:
    """Pause a schedule whose next due time can't be computed, so that it does not hold up the others."""
    log.warning("schedule paused", schedule=str(schedule_id), error=error)
    await connection.execute(
        "UPDATE schedules SET paused = true, paused_at = now(), next_run_at = NULL, error = $2 WHERE schedule_id = $1",
        schedule_id,
        error,
    )
