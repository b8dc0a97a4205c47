"""Backfills: the runs of a range of past times, each once, a number of them at once.

All runs of the range wait, on record, from the transaction that makes the backfill. The clock begins them one by one:
nothing is lost, and nothing is done twice, whenever a scheduler dies.
"""

from datetime import datetime, timedelta
from itertools import islice, takewhile
from uuid import UUID

from asyncpg import Record

from services.engine.errors import Conflict, NotFound, SpecError
from services.engine.schedules import Row
from services.engine.timetable import Timetable
from services.platform.database import Connection, new_id

RUNS_MAX = 1_000  # of a backfill

_INSERT = """
    INSERT INTO schedule_backfills (backfill_id, schedule_id, since, until, running_max, created_by)
    VALUES ($1, $2, $3, $4, $5, $6)"""

# A run that was skipped or refused is made up for; one that has a job, or waits already, stays as it is.
_HAVE_WAIT = """
    INSERT INTO schedule_runs AS r (schedule_id, scheduled_at, state, origin, backfill_id)
    SELECT $1, scheduled_at, 'waiting', 'backfill', $3 FROM unnest($2::timestamptz[]) AS scheduled_at
    WHERE NOT EXISTS (SELECT FROM jobs WHERE schedule_id = $1 AND run_at = scheduled_at)
    ON CONFLICT (schedule_id, scheduled_at) DO UPDATE
        SET state = 'waiting', origin = 'backfill', backfill_id = $3, reason = NULL, error = NULL, decided_at = now()
        WHERE r.state IN ('skipped', 'refused')"""


async def create_backfill(
    connection: Connection, schedule: Row, since: datetime, until: datetime, running_max: int, created_by: str
) -> UUID:
    """Have the runs of the schedule's times from `since` to `until`, both included, wait for their turns.

    `schedule` is locked, and has the database's time as `now`. Raises SpecError for a bad range, and Conflict if there
    is nothing to make up for.
    """
    if until > schedule["now"]:
        raise SpecError("until", until.isoformat(), "this time is still to come: the clock will run what is due then")
    if since > until:
        raise SpecError("since", since.isoformat(), "it is after `until`: give the earlier time here")
    due = Timetable.of(schedule).times(since - timedelta(seconds=1))
    within = takewhile(lambda time: time <= until, (time for time in due if time >= since))
    times = list(islice(within, RUNS_MAX + 1))
    if not times:
        fix = "the schedule is not due between this time and `until`: give a longer range"
        raise SpecError("since", since.isoformat(), fix)
    if len(times) > RUNS_MAX:
        fix = f"that are more than {RUNS_MAX:,} runs: go until {times[RUNS_MAX - 1].isoformat()}, then make another one"
        raise SpecError("until", until.isoformat(), fix)
    backfill_id = new_id()
    await connection.execute(_INSERT, backfill_id, schedule["schedule_id"], since, until, running_max, created_by)
    if await connection.execute(_HAVE_WAIT, schedule["schedule_id"], times, backfill_id) == "INSERT 0 0":
        raise Conflict(
            f"all {len(times)} runs from {since.isoformat()} until {until.isoformat()} have their jobs, or wait"
        )
    return backfill_id


_NEXT = """
    SELECT r.scheduled_at, r.origin
    FROM schedule_backfills AS f JOIN schedule_runs AS r ON r.backfill_id = f.backfill_id AND r.state = 'waiting'
    WHERE f.schedule_id = $1 AND f.ended_at IS NULL AND f.running_max > (
        SELECT count(*) FROM jobs AS j
        JOIN schedule_runs AS b ON b.schedule_id = j.schedule_id AND b.scheduled_at = j.run_at
        WHERE j.schedule_id = f.schedule_id AND j.state NOT IN ('succeeded', 'failed', 'cancelled')
            AND b.backfill_id = f.backfill_id)
    ORDER BY f.backfill_id, r.scheduled_at LIMIT 1"""


async def next_backfilled(connection: Connection, schedule: Row) -> Record | None:
    """The run of its backfills (`scheduled_at`, `origin`) that may begin now, by `begin_run` with `waited`."""
    return await connection.fetchrow(_NEXT, schedule["schedule_id"])


_END = """
    UPDATE schedule_backfills AS f SET ended_at = now()
    WHERE f.schedule_id = $1 AND f.ended_at IS NULL AND NOT EXISTS (
        SELECT FROM schedule_runs AS r WHERE r.backfill_id = f.backfill_id AND r.state = 'waiting')"""


async def end_backfills(connection: Connection, schedule: Row) -> None:
    """End those of the schedule's backfills of which no run waits any more."""
    await connection.execute(_END, schedule["schedule_id"])


_CANCEL = """
    UPDATE schedule_backfills SET cancelled = true, ended_at = now()
    WHERE backfill_id = $2 AND schedule_id = $1 AND ended_at IS NULL RETURNING backfill_id"""

_SKIP = """
    UPDATE schedule_runs SET state = 'skipped', reason = 'request', decided_at = now()
    WHERE backfill_id = $1 AND state = 'waiting'"""

_IS_THERE = "SELECT EXISTS (SELECT FROM schedule_backfills WHERE backfill_id = $2 AND schedule_id = $1)"


async def cancel_backfill(connection: Connection, schedule: Row, backfill_id: UUID) -> None:
    """Skip those of its runs that wait; jobs that it has submitted go on. Safe to repeat. Raises NotFound."""
    schedule_id = schedule["schedule_id"]
    if await connection.fetchval(_CANCEL, schedule_id, backfill_id) is not None:
        await connection.execute(_SKIP, backfill_id)
    elif not await connection.fetchval(_IS_THERE, schedule_id, backfill_id):
        raise NotFound(f"there is no backfill {backfill_id} of the schedule {schedule['name']}")
