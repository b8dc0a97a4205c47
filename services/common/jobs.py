"""Jobs as a whole: every transition that a user or the scheduler makes of a job, a stage or a pool.

scheduled → running ⇄ paused → succeeded
     └─────────┴────────┴────→ cancelling → cancelled
               └────────┴────→ failing    → failed       (failed, cancelled → running by retry)
"""

from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.common import lifecycle
from services.common.database import JOBS_CHANNEL, WEBHOOKS_CHANNEL, Connection
from services.common.settings import Settings
from services.common.spec import OWN_PROCESSORS, ProcessorSpec

EVENT_FILES_MAX = 20  # a queue's messages are small

TERMINAL = ("succeeded", "failed", "cancelled")


class SpecError(ValueError):
    """A field of a well-formed submission can't be accepted; `field` is its dotted path, `mend` what to do."""

    def __init__(self, field: str, value: Any, mend: str) -> None:
        super().__init__(f"{field}: {value!r}: {mend}")
        self.field = field
        self.value = value
        self.mend = mend


class Conflict(Exception):
    """The job (worker, pool) is in a state that does not allow this; the message names both."""


class NotFound(LookupError):
    """There is no such job, worker or pool."""


async def notify_jobs(connection: Connection) -> None:
    """Wake the scheduler's loops when the transaction commits."""
    await connection.execute("SELECT pg_notify($1, '')", JOBS_CHANNEL)


async def start_stages(connection: Connection, job_id: UUID) -> None:
    """Run the stages whose tasks come one by one; those that wait for all of the stage before stay `waiting`."""
    await connection.execute(
        "UPDATE stages SET state = 'running', started_at = coalesce(started_at, now()), finished_at = NULL "
        "WHERE job_id = $1 AND state IN ('waiting', 'failed', 'cancelled') "
        "AND (planned OR plan_cursor IS NOT NULL OR NOT barrier AND tasks_from IN ('input', 'successes', 'items'))",
        job_id,
    )
    await connection.execute(
        "UPDATE stages SET state = 'waiting', finished_at = NULL "
        "WHERE job_id = $1 AND state IN ('failed', 'cancelled')",
        job_id,
    )


async def start_due_jobs(connection: Connection, jobs_max: int) -> int:
    """Start jobs whose `run_at` has come, inside the caller's transaction; returns how many."""
    rows = await connection.fetch(
        # ARRAY is evaluated once; an IN may be evaluated again for each row, and skip and find others every time.
        "UPDATE jobs SET state = 'running', started_at = now() WHERE job_id = ANY(ARRAY("
        "SELECT job_id FROM jobs WHERE state = 'scheduled' AND run_at <= now() "
        "ORDER BY run_at LIMIT $1 FOR UPDATE SKIP LOCKED)) RETURNING job_id",
        jobs_max,
    )
    for row in rows:
        await start_stages(connection, row["job_id"])
    return len(rows)


# Orders of users.


async def _move_job(connection: Connection, job_id: UUID, order: str, sources: tuple[str, ...], target: str) -> None:
    """Lock the job and change its state. Raises NotFound, Conflict."""
    state: str | None = await connection.fetchval("SELECT state FROM jobs WHERE job_id = $1 FOR UPDATE", job_id)
    if state is None:
        raise NotFound(f"no job has the id {job_id}")
    if state not in sources:
        raise Conflict(f"a job that is {state} can't be {order}; it must be {' or '.join(sources)}")
    await connection.execute("UPDATE jobs SET state = $2 WHERE job_id = $1", job_id, target)
    await notify_jobs(connection)


async def pause_job(connection: Connection, job_id: UUID) -> None:
    """Nothing more of the job starts; running tasks end as usual. Raises NotFound, Conflict."""
    async with connection.transaction():
        await _move_job(connection, job_id, "paused", ("running",), "paused")
        await lifecycle.withdraw(connection, job_id=job_id)


async def resume_job(connection: Connection, job_id: UUID) -> None:
    """Raises NotFound, Conflict."""
    async with connection.transaction():
        await _move_job(connection, job_id, "resumed", ("paused",), "running")


async def cancel_job(connection: Connection, job_id: UUID) -> None:
    """Order the end of a job; the scheduler cancels its tasks, workers kill what runs. Raises NotFound, Conflict."""
    async with connection.transaction():
        await _move_job(connection, job_id, "cancelled", ("scheduled", "running", "paused"), "cancelling")


# What failed before the user's order says nothing of what is to come.
_FORGIVE = """
    UPDATE stages AS s SET retry_budget = 100 + greatest(0, c.attempts - 2 * c.succeeded)
    FROM (
        SELECT stage, sum(attempts) AS attempts, sum(succeeded) AS succeeded FROM stage_counters
        WHERE job_id = $1 GROUP BY stage
    ) AS c
    WHERE s.job_id = $1 AND s.stage = c.stage"""


async def retry_job(connection: Connection, job_id: UUID) -> None:
    """Run a failed or cancelled job's failed and cancelled tasks again; what succeeded is kept.

    Raises NotFound, Conflict.
    """
    async with connection.transaction():
        await _move_job(connection, job_id, "retried", ("failed", "cancelled"), "running")
        await connection.execute(
            "UPDATE jobs SET error = NULL, finished_at = NULL, started_at = coalesce(started_at, now()) "
            "WHERE job_id = $1",
            job_id,
        )
        await start_stages(connection, job_id)
        await connection.execute(_FORGIVE, job_id)
        await lifecycle.retry_tasks(connection, job_id)


async def drain_worker(connection: Connection, worker_id: UUID) -> None:
    """The worker takes no more tasks, ends its own and stops, from its next heartbeat on. Raises NotFound, Conflict."""
    state: str | None = await connection.fetchval(
        "UPDATE workers SET state = 'draining' "
        "WHERE worker_id = $1 AND state IN ('active', 'draining') RETURNING state",
        worker_id,
    )
    if state is None:
        was = await connection.fetchval("SELECT state FROM workers WHERE worker_id = $1", worker_id)
        if was is None:
            raise NotFound(f"no worker has the id {worker_id}")
        raise Conflict(f"a worker that is {was} can't be drained; it must be active")


async def _set_pool_paused(connection: Connection, name: str, paused: bool) -> None:
    status = await connection.execute("UPDATE pools SET paused = $2 WHERE name = $1", name, paused)
    if status == "UPDATE 0":
        raise NotFound(f"no pool is named {name!r}")


async def pause_pool(connection: Connection, name: str) -> None:
    """Nothing more starts in the pool; running tasks end as usual. Raises NotFound."""
    async with connection.transaction():
        await _set_pool_paused(connection, name, True)
        await lifecycle.withdraw(connection, pool=name)


async def resume_pool(connection: Connection, name: str) -> None:
    """Raises NotFound."""
    async with connection.transaction():
        await _set_pool_paused(connection, name, False)
        await notify_jobs(connection)


async def register_pool(
    connection: Connection, name: str, *, queue_url: str, dead_letter_url: str, group_name: str | None, slots: int
) -> None:
    """Add a pool or change its queues and group; its capacity and pause stay as they are."""
    await connection.execute(
        "INSERT INTO pools (name, queue_url, dead_letter_url, group_name, slots) VALUES ($1, $2, $3, $4, $5) "
        "ON CONFLICT (name) DO UPDATE SET queue_url = $2, dead_letter_url = $3, group_name = $4, slots = $5",
        name,
        queue_url,
        dead_letter_url,
        group_name,
        slots,
    )


async def register_processor(connection: Connection, name: str, spec: ProcessorSpec, description: str = "") -> int:
    """Add a processor's next version inside the caller's transaction; returns its number.

    Registering what the newest version already says gives that version again. Raises SpecError.
    """
    if name.startswith(OWN_PROCESSORS):
        raise SpecError("name", name, f"names that begin with {OWN_PROCESSORS} are Piecework's own; choose another")
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended('processor ' || $1, 0))", name)
    newest = await connection.fetchrow(
        "SELECT version, spec, description FROM processors WHERE name = $1 ORDER BY version DESC LIMIT 1", name
    )
    value = spec.model_dump(mode="json")
    if newest is not None and (newest["spec"], newest["description"]) == (value, description):
        return int(newest["version"])
    version = newest["version"] + 1 if newest is not None else 1
    await connection.execute(
        "INSERT INTO processors (name, version, spec, description) VALUES ($1, $2, $3, $4)",
        name,
        version,
        value,
        description,
    )
    return int(version)


# Ends of stages and jobs.


async def fail_job(connection: Connection, job_id: UUID, error: dict[str, Any], stage: int | None = None) -> bool:
    """Start failing a running job: `stage` has failed, the rest is to be cancelled. False if it runs no more."""
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


_TELL_QUEUE = """
    INSERT INTO queue_messages (queue_url, job_id, body)
    SELECT spec ->> 'output_queue', $1, $2 FROM jobs WHERE job_id = $1 AND spec ->> 'output_queue' IS NOT NULL"""


def _event(job: Record, result: dict[str, Any] | None) -> dict[str, Any]:
    """What webhooks and a user's queue are told: of many result files (parts left as they are) the manifest."""
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
    """Put a job into its terminal state together with what is told of it; False if another did. Joins a transaction."""
    async with connection.transaction():
        job = await connection.fetchrow(_END, job_id, source, target)
        if job is None:
            return False
        await connection.execute(
            "UPDATE stages SET state = 'cancelled', finished_at = now() "
            "WHERE job_id = $1 AND state NOT IN ('succeeded', 'failed', 'cancelled')",
            job_id,
        )
        # No task is left; but somebody may still run an attempt that has lost its race.
        await connection.execute("DELETE FROM bundles WHERE job_id = $1", job_id)
        event = _event(job, result)
        await connection.execute(_RECORD_WEBHOOKS, job_id, event["type"], event, settings.webhook_hours)
        await connection.execute(_TELL_QUEUE, job_id, event)
        await connection.execute("SELECT pg_notify($1, '')", WEBHOOKS_CHANNEL)
        return True
