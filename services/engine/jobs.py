"""Jobs as a whole: every transition of a job, by a user or by the scheduler.

scheduled → running ⇄ paused → succeeded          (scheduled: for a time, or for other jobs)
     └─────────┴────────┴────→ cancelling → cancelled
               └────────┴────→ failing    → failed       (all three → running by retry)
"""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.states import TERMINAL
from services.engine import transitions
from services.engine.dependencies import wait_again
from services.engine.errors import Conflict, NotFound
from services.engine.stages import hold_stages, start_stages, stay_open
from services.platform.database import ENDS_CHANNEL, JOBS_CHANNEL, WEBHOOKS_CHANNEL, Connection, notify
from services.platform.settings import Settings

EVENT_FILES_MAX = 20  # a queue's messages are small


async def notify_jobs(connection: Connection) -> None:
    """Wake the scheduler's loops when the transaction commits."""
    await notify(connection, JOBS_CHANNEL)


async def start_due_jobs(connection: Connection, jobs_max: int) -> int:
    """Start jobs whose `run_at` has come, inside the caller's transaction; returns how many."""
    rows = await connection.fetch(
        # ARRAY is evaluated once. An IN may be evaluated for each row, and then finds other rows every time.
        "UPDATE jobs SET state = 'running', started_at = now() WHERE job_id = ANY(ARRAY("
        "SELECT job_id FROM jobs WHERE state = 'scheduled' AND run_at <= now() "
        "ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING job_id",
        jobs_max,
    )
    for row in rows:
        await start_stages(connection, row["job_id"])
        await stay_open(connection, row["job_id"])
    return len(rows)


# Orders of users.


_MOVE = "UPDATE jobs SET state = $2, paused_at = CASE WHEN $2 = 'paused' THEN now() END WHERE job_id = $1"


async def _move_job(connection: Connection, job_id: UUID, order: str, sources: tuple[str, ...], target: str) -> None:
    """Lock the job and change its state. Raises NotFound, Conflict."""
    job = await connection.fetchrow("SELECT state, deleted_at FROM jobs WHERE job_id = $1 FOR UPDATE", job_id)
    if job is None:
        raise NotFound(f"no job has the id {job_id}")
    if job["deleted_at"] is not None:
        raise Conflict(f"this job is being deleted, so it can't be {order}: submit it again")
    state = job["state"]
    if state not in sources:
        raise Conflict(f"a job that is {state} can't be {order}; it must be {' or '.join(sources)}")
    await connection.execute(_MOVE, job_id, target)
    await notify_jobs(connection)


async def pause_job(connection: Connection, job_id: UUID) -> None:
    """Pause the job: no more of its tasks start, running ones end as usual. Raises NotFound, Conflict."""
    async with connection.transaction():
        await _move_job(connection, job_id, "paused", ("running",), "paused")
        await transitions.withdraw(connection, job_id=job_id)


async def resume_job(connection: Connection, job_id: UUID) -> None:
    """Raises NotFound, Conflict."""
    async with connection.transaction():
        await _move_job(connection, job_id, "resumed", ("paused",), "running")
        await stay_open(connection, job_id)


async def cancel_job(connection: Connection, job_id: UUID) -> None:
    """Cancel the job: the scheduler cancels its tasks, workers kill what runs. Raises NotFound, Conflict."""
    async with connection.transaction():
        await _move_job(connection, job_id, "cancelled", ("scheduled", "running", "paused"), "cancelling")


# Failures before the user's order say nothing about the tries that follow.
_FORGIVE = """
    UPDATE stages AS s SET retry_budget = (
        SELECT 100 + greatest(0, attempts - 2 * succeeded) FROM stage_sums(s.job_id, s.stage))
    WHERE job_id = $1"""

# So do lost outputs.
_FORGIVE_LOSSES = "UPDATE lost_outputs SET counted = false WHERE job_id = $1"


async def retry_job(
    connection: Connection, job_id: UUID, change: Callable[[Connection], Awaitable[None]] | None = None
) -> None:
    """Run the failed and cancelled tasks of a failed or cancelled job again; results of the others are kept.

    One that waited for other jobs waits for them again. With `change`, which has more of it run again first
    (services/engine/retries.py), the job may have succeeded. Raises NotFound, Conflict, and what `change` raises.
    """
    async with connection.transaction():
        sources = ("failed", "cancelled") if change is None else TERMINAL
        await _move_job(connection, job_id, "retried", sources, "running")
        if change is not None:
            await change(connection)
        await connection.execute(
            "UPDATE jobs SET error = NULL, finished_at = NULL, started_at = coalesce(started_at, now()), "
            "retried_at = now(), keep_revision = 0, expires_at = NULL, deletion = NULL WHERE job_id = $1",
            job_id,
        )
        waits = await wait_again(connection, job_id)
        await start_stages(connection, job_id)
        await stay_open(connection, job_id)
        await connection.execute(_FORGIVE, job_id)
        await connection.execute(_FORGIVE_LOSSES, job_id)
        await transitions.retry_tasks(connection, job_id)
        if waits:
            await hold_stages(connection, job_id)


# Ends of stages and jobs.


async def fail_job(connection: Connection, job_id: UUID, error: dict[str, Any], stage: int | None = None) -> bool:
    """Start failing a running job: `stage` has failed, the rest is cancelled. False if the job no longer runs."""
    async with connection.transaction():
        status = await connection.execute(
            "UPDATE jobs SET state = 'failing', error = $2 WHERE job_id = $1 AND state IN ('running', 'paused')",
            job_id,
            error,
        )
        if status == "UPDATE 0":
            return False
        await connection.execute(
            "UPDATE stages SET state = 'failed', finished_at = now() WHERE job_id = $1 AND stage = $2", job_id, stage
        )
        await notify_jobs(connection)
        return True


_END = """
    UPDATE jobs SET state = $3, finished_at = now() WHERE job_id = $1 AND state = $2
    RETURNING job_id, name, state, labels, schedule_id, created_at, started_at, finished_at, error"""

_RECORD_WEBHOOKS = """
    INSERT INTO webhook_deliveries (delivery_id, endpoint_id, job_id, event, payload, give_up_at)
    SELECT gen_random_uuid(), endpoint_id, $1, $2, $3, now() + $4 * interval '1 hour'
    FROM webhook_endpoints WHERE enabled AND $2 = ANY(events)"""

# Alerts look at it later, outside the job's end. While there are none, nothing is to be looked at.
_RECORD_END = """
    INSERT INTO ended_jobs (job_id) SELECT $1 WHERE EXISTS (SELECT FROM alerts)
    ON CONFLICT (job_id) DO UPDATE SET ended_at = now()"""

_TELL_QUEUE = """
    INSERT INTO queue_messages (queue_url, job_id, body)
    SELECT spec ->> 'output_queue', $1, $2 FROM jobs WHERE job_id = $1 AND spec ->> 'output_queue' IS NOT NULL"""


def _event(job: Record, result: dict[str, Any] | None) -> dict[str, Any]:
    """What webhooks and a user's queue are told: the result files, or the manifest if there are many."""
    data = {
        name: value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in job.items()
    }
    return {
        "type": f"job.{job['state']}",
        "timestamp": job["finished_at"].isoformat(),
        "data": data
        | {
            "results": result and result["manifest"],
            "files": result["files"] if result and len(result["files"]) <= EVENT_FILES_MAX else [],
        },
    }


async def end_job(
    connection: Connection,
    job_id: UUID,
    *,
    source: str,
    target: str,
    settings: Settings,
    result: dict[str, Any] | None = None,
) -> bool:
    """Put a job into its terminal state and record its events; False if it is there already. Joins a transaction."""
    async with connection.transaction():
        job = await connection.fetchrow(_END, job_id, source, target)
        if job is None:
            return False
        await connection.execute(
            "UPDATE stages SET state = 'cancelled', finished_at = now() "
            "WHERE job_id = $1 AND state NOT IN ('succeeded', 'failed', 'cancelled')",
            job_id,
        )
        # No task is left, but a worker may still run an attempt that has lost its race.
        await connection.execute("DELETE FROM bundles WHERE job_id = $1", job_id)
        await connection.execute("UPDATE lost_outputs SET waits = false WHERE job_id = $1 AND waits", job_id)
        event = _event(job, result)
        await connection.execute(_RECORD_WEBHOOKS, job_id, event["type"], event, settings.webhook_hours)
        await connection.execute(_TELL_QUEUE, job_id, event)
        await connection.execute(_RECORD_END, job_id)
        await notify(connection, WEBHOOKS_CHANNEL)
        await notify(connection, ENDS_CHANNEL, str(job_id))
        return True
