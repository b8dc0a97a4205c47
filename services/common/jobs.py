"""Jobs as a whole: submission, and every transition that a user or the scheduler makes of a job, a stage or a pool.

scheduled → running ⇄ paused → succeeded
     └─────────┴────────┴────→ cancelling → cancelled
               └────────┴────→ failing    → failed       (failed, cancelled → running by retry)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import jsonschema
from asyncpg import Record

from services.common import lifecycle
from services.common.database import JOBS_CHANNEL, WEBHOOKS_CHANNEL, Connection, new_id
from services.common.settings import Settings
from services.common.spec import JobSpec, NoMerge, ProcessorSpec, ReduceMerge, StageSpec

TERMINAL = ("succeeded", "failed", "cancelled")

# What Piecework itself puts beside a job's result.
RESERVED_FILENAMES = ("manifest.json", "rejects.jsonl")


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


# Submission.


@dataclass(frozen=True, slots=True)
class _ResolvedStage:
    spec: StageSpec
    kind: str
    processor: str
    version: int


async def _find_processor(connection: Connection, name_and_version: str, field: str) -> Record:
    name, at, version = name_and_version.partition("@")
    if at and not version.isdecimal():
        raise SpecError(field, name_and_version, "write `name` for the newest version or `name@version` with a number")
    row = await connection.fetchrow(
        "SELECT name, version, spec FROM processors WHERE name = $1 AND ($2::integer IS NULL OR version = $2) "
        "ORDER BY version DESC LIMIT 1",
        name,
        int(version) if at else None,
    )
    if row is None:
        known = await connection.fetch("SELECT DISTINCT name FROM processors ORDER BY name LIMIT 20")
        names = ", ".join(row["name"] for row in known) or "none yet"
        raise SpecError(field, name_and_version, f"no such processor is registered (registered: {names})")
    return row


def check_params(params: Mapping[str, Any], schema: Mapping[str, Any] | None, field: str) -> None:
    """Check params against a processor's JSON Schema (2020-12); raises SpecError for the first mismatch."""
    if schema is None:
        return
    try:
        error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(params))
    except RecursionError as endless:
        raise SpecError(field, params, "nested too deeply for the processor's params_schema") from endless
    if error is not None:
        path = ".".join(str(part) for part in [field, *error.absolute_path])
        raise SpecError(path, error.instance, error.message)


def _check_filename(filename: str | None, field: str) -> None:
    if filename in RESERVED_FILENAMES:
        raise SpecError(field, filename, "Piecework itself writes a file of this name; choose another")


async def _resolve_stage(connection: Connection, stage: StageSpec, kind: str, field: str) -> _ResolvedStage:
    row = await _find_processor(connection, stage.processor, f"{field}.processor")
    check_params(stage.params, row["spec"].get("params_schema"), f"{field}.params")
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pools WHERE name = $1)", stage.pool):
        known = await connection.fetch("SELECT name FROM pools ORDER BY name")
        raise SpecError(f"{field}.pool", stage.pool, f"no such pool (pools: {', '.join(r['name'] for r in known)})")
    return _ResolvedStage(stage, kind, row["name"], row["version"])


async def resolve_stages(connection: Connection, spec: JobSpec, settings: Settings) -> list[_ResolvedStage]:
    """The stages a job will have, a reduce included, with processors' versions fixed; raises SpecError."""
    if len(spec.stages) > settings.stages_max:
        raise SpecError("stages", len(spec.stages), f"a job has at most {settings.stages_max} stages")
    if spec.input.type == "items" and len(spec.input.items) > settings.items_max:
        mend = f"at most {settings.items_max} items; put more into an object and use an input of type lines"
        raise SpecError("input.items", len(spec.input.items), mend)
    stages = [
        await _resolve_stage(connection, stage, "map", f"stages.{number}") for number, stage in enumerate(spec.stages)
    ]
    if not isinstance(spec.merge, NoMerge):
        _check_filename(spec.merge.filename, "merge.filename")
    if isinstance(spec.merge, ReduceMerge):
        last = spec.stages[-1]
        reduce = StageSpec(
            name="reduce" if all(stage.name != "reduce" for stage in spec.stages) else f"reduce-{len(stages)}",
            processor=spec.merge.processor,
            params=spec.merge.params,
            pool=last.pool,
            retry=last.retry,
            timeout_seconds=last.timeout_seconds,
            memory_bytes=last.memory_bytes,
        )
        stages.append(await _resolve_stage(connection, reduce, "reduce", "merge"))
    return stages


_INSERT_JOB = """
    INSERT INTO jobs (job_id, name, spec, state, priority, share, labels, schedule_id, run_at, started_at)
    VALUES ($1, $2, $3, CASE WHEN $4 THEN 'scheduled' ELSE 'running' END, $5, $6, $7, $8, $9,
        CASE WHEN NOT $4 THEN now() END)"""

_INSERT_STAGE = """
    INSERT INTO stages (job_id, stage, name, kind, processor, processor_version, params, pool, chains, max_attempts,
        backoff_seconds, backoff_max_seconds, timeout_seconds, memory_bytes, tolerated_failures, rejects_max)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)"""


async def submit_job(
    connection: Connection,
    spec: JobSpec,
    *,
    settings: Settings,
    schedule_id: UUID | None = None,
    run_at: datetime | None = None,
) -> UUID:
    """Record a job inside the caller's transaction; it starts at once unless `spec.run_at` is set.

    `schedule_id` and `run_at` are those of the schedule's run: a second job for the same run raises
    asyncpg.UniqueViolationError. Raises SpecError.
    """
    resolved = await resolve_stages(connection, spec, settings)
    job_id = new_id()
    await connection.execute(
        _INSERT_JOB,
        job_id,
        spec.name,
        spec.model_dump(mode="json"),
        spec.run_at is not None,
        spec.priority,
        spec.share,
        spec.labels,
        schedule_id,
        run_at or spec.run_at,
    )
    maps = sum(stage.kind == "map" for stage in resolved)
    for number, stage in enumerate(resolved):
        await connection.execute(
            _INSERT_STAGE,
            job_id,
            number,
            stage.spec.name,
            stage.kind,
            stage.processor,
            stage.version,
            stage.spec.params,
            stage.spec.pool,
            number < maps - 1,
            stage.spec.retry.max_attempts,
            stage.spec.retry.backoff_seconds,
            stage.spec.retry.backoff_max_seconds,
            stage.spec.timeout_seconds,
            stage.spec.memory_bytes,
            stage.spec.tolerated_failures,
            stage.spec.rejects_max,
        )
    if spec.run_at is None:
        await _start_stages(connection, job_id)
    await notify_jobs(connection)
    return job_id


async def _start_stages(connection: Connection, job_id: UUID) -> None:
    """All map stages run from the start: a task of a later one is there as soon as its predecessor has succeeded."""
    await connection.execute(
        "UPDATE stages SET state = 'running', started_at = coalesce(started_at, now()), finished_at = NULL "
        "WHERE job_id = $1 AND kind = 'map' AND state IN ('waiting', 'failed', 'cancelled')",
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
        await _start_stages(connection, row["job_id"])
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
        await _start_stages(connection, job_id)
        await connection.execute(
            "UPDATE stages SET state = CASE WHEN planned THEN 'running' ELSE 'waiting' END, finished_at = NULL "
            "WHERE job_id = $1 AND kind = 'reduce' AND state IN ('failed', 'cancelled')",
            job_id,
        )
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
    _check_filename(spec.output, "output")  # a reduce's output may become the result
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


def _webhook_payload(job: Record, results: dict[str, Any] | None) -> dict[str, Any]:
    data = {
        name: value.isoformat() if isinstance(value, datetime) else str(value) if isinstance(value, UUID) else value
        for name, value in job.items()
    }
    return {
        "type": f"job.{job['state']}",
        "timestamp": job["finished_at"].isoformat(),
        "data": data | {"results": results},
    }


async def end_job(
    connection: Connection,
    job_id: UUID,
    *,
    source: str,
    target: str,
    settings: Settings,
    results: dict[str, Any] | None = None,
) -> bool:
    """Put a job into its terminal state together with its webhooks; False if another did. Joins a transaction."""
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
        payload = _webhook_payload(job, results)
        await connection.execute(_RECORD_WEBHOOKS, job_id, payload["type"], payload, settings.webhook_hours)
        await connection.execute("SELECT pg_notify($1, '')", WEBHOOKS_CHANNEL)
        return True
