"""Runs of schedules: each is named by the time at which it is due, and is decided once, whatever becomes of it.

Whoever decides one holds the schedule's row locked, and records it in the transaction that submits its job.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.states import RunOrigin, RunReason, RunState
from services.engine.audit import Actor, record
from services.engine.errors import Conflict, NotFound
from services.engine.jobs import cancel_job
from services.engine.run_times import RunTimes, fill_times
from services.engine.spec import JobSpec
from services.engine.submission import submit_job
from services.engine.timetable import Timetable
from services.platform.database import Connection, storable
from services.platform.settings import Settings

Row = Record | Mapping[str, Any]  # of a schedule

RECORDED_MAX = 1_000  # runs that came due during a pause: the last of them are recorded
KEPT_RUNS = 10_000  # of each schedule, the latest
WAITING_MAX = 100  # runs of a schedule: one that comes due then is skipped

_CLAIM = """
    INSERT INTO schedule_runs AS r (schedule_id, scheduled_at, state, origin, reason) VALUES ($1, $2, $4, $3, $5)
    ON CONFLICT (schedule_id, scheduled_at) DO UPDATE
        SET state = $4, origin = $3, reason = $5, error = NULL, decided_at = now(),
            backfill_id = CASE WHEN $3 = 'backfill' THEN r.backfill_id END
        WHERE r.state = ANY($6::text[])
    RETURNING scheduled_at"""

_NAME_JOB = "UPDATE schedule_runs SET job_id = $3 WHERE schedule_id = $1 AND scheduled_at = $2"


@dataclass(frozen=True, slots=True)
class Begun:
    """What has become of a run that was to begin: `submitted`, with its job, or by its schedule's overlap rule
    `waiting` or `skipped`."""

    state: RunState
    job_id: UUID | None = None


async def begin_run(
    connection: Connection,
    settings: Settings,
    schedule: Row,
    scheduled_at: datetime,
    *,
    origin: RunOrigin,
    instead_of: tuple[RunState, ...] = ("refused",),
    waited: bool = False,
) -> Begun | None:
    """Submit the job of the schedule's run, for the schedule's owner, if its overlap rule allows, or if it has waited.

    None if the run was decided before, unless it is in one of the states `instead_of`. Raises SpecError,
    ValidationError, QuotaExceeded, and asyncpg.UniqueViolationError if a job of an earlier release is this run: then
    nothing is left of it once the caller's savepoint is undone.
    """
    schedule_id = schedule["schedule_id"]
    state, reason = ("submitted", None) if waited else await _apply_overlap(connection, schedule)
    claim = (schedule_id, scheduled_at, origin, state, reason, list(instead_of))
    if await connection.fetchval(_CLAIM, *claim) is None:
        return None
    if state != "submitted":
        if schedule["overlap"] == "cancel":
            await _make_way(connection, schedule, scheduled_at)
        return Begun(state)
    return Begun(state, await _submit(connection, settings, schedule, scheduled_at))


async def _submit(connection: Connection, settings: Settings, schedule: Row, scheduled_at: datetime) -> UUID:
    job_id = await submit_job(
        connection,
        JobSpec.model_validate(_job_of(schedule, scheduled_at), extra="ignore"),
        settings=settings,
        schedule_id=schedule["schedule_id"],
        run_at=scheduled_at,
        created_by=schedule["created_by"],
        key_id=schedule["key_id"],
    )
    await connection.execute(_NAME_JOB, schedule["schedule_id"], scheduled_at, job_id)
    return job_id


# Those of a backfill have a limit of their own.
_ACTIVE = """
    SELECT j.job_id, j.state FROM jobs AS j
    WHERE j.schedule_id = $1 AND j.state NOT IN ('succeeded', 'failed', 'cancelled') AND NOT EXISTS (
        SELECT FROM schedule_runs AS r
        WHERE r.schedule_id = j.schedule_id AND r.scheduled_at = j.run_at AND r.backfill_id IS NOT NULL)
    ORDER BY j.job_id"""

_WAITING = """
    SELECT scheduled_at, origin FROM schedule_runs
    WHERE schedule_id = $1 AND state = 'waiting' AND backfill_id IS NULL ORDER BY scheduled_at"""


async def _apply_overlap(connection: Connection, schedule: Row) -> tuple[RunState, RunReason | None]:
    """What the schedule's overlap rule makes of a run that is to begin now."""
    if schedule["overlap"] == "allow":
        return "submitted", None
    waiting = await connection.fetch(_WAITING, schedule["schedule_id"])
    if not waiting and not await connection.fetch(_ACTIVE, schedule["schedule_id"]):
        return "submitted", None
    skipped = schedule["overlap"] == "skip" or (schedule["overlap"] == "queue" and len(waiting) >= WAITING_MAX)
    return ("skipped" if skipped else "waiting"), "overlap"


_SUPERSEDE = """
    UPDATE schedule_runs SET state = 'skipped', decided_at = now()
    WHERE schedule_id = $1 AND state = 'waiting' AND backfill_id IS NULL AND scheduled_at <> $2"""


async def _make_way(connection: Connection, schedule: Row, scheduled_at: datetime) -> None:
    """Cancel what runs of the schedule, and skip what waits, for this run; it begins when nothing runs any more."""
    await connection.execute(_SUPERSEDE, schedule["schedule_id"], scheduled_at)
    for job in await connection.fetch(_ACTIVE, schedule["schedule_id"]):
        if job["state"] in ("scheduled", "running", "paused"):
            try:
                await cancel_job(connection, job["job_id"])
            except (Conflict, NotFound):  # it has ended meanwhile
                continue
            summary = {"schedule": schedule["name"], "for": scheduled_at.isoformat()}
            actor = Actor("scheduler", schedule["created_by"])
            await record(connection, actor, "cancel_job", "job", job["job_id"], summary)


async def next_waiting(connection: Connection, schedule: Row) -> Record | None:
    """The run (`scheduled_at`, `origin`) that has waited longest and may begin now, by `begin_run` with `waited`."""
    waiting = await connection.fetch(_WAITING, schedule["schedule_id"])
    if not waiting or (schedule["overlap"] != "allow" and await connection.fetch(_ACTIVE, schedule["schedule_id"])):
        return None
    return next((run for run in waiting if run["origin"] == "request" or not schedule["paused"]), None)


_LAST = """
    UPDATE schedules SET last_run_at = $2, last_job_id = $3
    WHERE schedule_id = $1 AND (last_run_at IS NULL OR last_run_at <= $2)"""


async def note_last_run(connection: Connection, schedule_id: UUID, scheduled_at: datetime, job_id: UUID) -> None:
    """Name the run as the schedule's last one, unless a later one has begun already."""
    await connection.execute(_LAST, schedule_id, scheduled_at, job_id)


def _job_of(schedule: Row, scheduled_at: datetime) -> Any:
    """The job of a run. Raises ValueError for a placeholder without a value."""
    if not schedule["template"]:
        return schedule["job"]
    return fill_times(schedule["job"], RunTimes(Timetable.of(schedule), scheduled_at))


_RECORD_SKIPPED = """
    INSERT INTO schedule_runs (schedule_id, scheduled_at, state, origin, reason)
    SELECT $1, scheduled_at, 'skipped', 'clock', $3 FROM unnest($2::timestamptz[]) AS scheduled_at
    ON CONFLICT DO NOTHING"""


async def record_skipped(
    connection: Connection, schedule_id: UUID, scheduled_at: Sequence[datetime], reason: RunReason
) -> int:
    """Record that these runs get no job, and why. Those that were decided before stay what they are, and don't count
    in the number returned."""
    status = await connection.execute(_RECORD_SKIPPED, schedule_id, scheduled_at, reason)
    return int(status.rpartition(" ")[2])


_RECORD_REFUSED = """
    INSERT INTO schedule_runs AS r (schedule_id, scheduled_at, state, origin, error)
    VALUES ($1, $2, 'refused', 'clock', $3)
    ON CONFLICT (schedule_id, scheduled_at) DO UPDATE
        SET state = 'refused', reason = NULL, error = $3, decided_at = now() WHERE r.state = 'waiting'"""


async def record_refused(connection: Connection, schedule_id: UUID, scheduled_at: datetime, error: str) -> None:
    """Record why a run's job could not be submitted."""
    await connection.execute(_RECORD_REFUSED, schedule_id, scheduled_at, storable(error))


_FORGET = """
    DELETE FROM schedule_runs WHERE schedule_id = $1 AND state <> 'waiting' AND scheduled_at < (
        SELECT scheduled_at FROM schedule_runs WHERE schedule_id = $1 ORDER BY scheduled_at DESC OFFSET $2 LIMIT 1)"""


async def forget_old_runs(connection: Connection, schedule_id: UUID) -> None:
    """Keep the latest KEPT_RUNS. Their jobs stay as long as retention says."""
    await connection.execute(_FORGET, schedule_id, KEPT_RUNS - 1)


_DECIDED = "SELECT scheduled_at FROM schedule_runs WHERE schedule_id = $1 AND scheduled_at > $2"


async def next_undecided(connection: Connection, schedule: Row, after: datetime) -> datetime:
    """The schedule's next run that is not decided yet. Raises ValueError if there is none."""
    decided = {row["scheduled_at"] for row in await connection.fetch(_DECIDED, schedule["schedule_id"], after)}
    timetable = Timetable.of(schedule)
    return next((time for time in timetable.times(after) if time not in decided), None) or timetable.next(after)


async def record_pause(connection: Connection, schedule: Row, now: datetime) -> None:
    """Record what came due during the schedule's pause, until now: nothing of it is made up for."""
    if schedule["paused_at"] is None:
        return
    try:
        missed = Timetable.of(schedule).last(after=schedule["paused_at"], until=now, count=RECORDED_MAX)
    except ValueError:  # its times can't be told, which may be why it was paused
        return
    await record_skipped(connection, schedule["schedule_id"], missed, "paused")
