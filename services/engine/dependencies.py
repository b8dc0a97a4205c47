"""Jobs that wait for other jobs: each starts when all have ended as it asks, or ends because one did not.

A trigger notes the end of a predecessor in the transaction of that end (`job_dependencies.ended`, migration 0339). What
it means for the job that waits is decided later, under that job's lock, by whichever scheduler finds the end not yet
`seen`: so nothing is lost if one dies in between, and two decide once. Only ends are looked at, never jobs that wait.
"""

from collections.abc import Sequence
from uuid import UUID

import structlog
from asyncpg import Record

from services.engine.errors import Conflict, SpecError
from services.engine.places import Reader
from services.engine.spec import Predecessor
from services.engine.stages import start_stages, stay_open
from services.platform.database import JOBS_CHANNEL, Connection, notify

log = structlog.get_logger()

_ENDS = {"failed": "has failed", "cancelled": "was cancelled"}

# Their lock keeps them from ending before this transaction has recorded who waits for them.
_PREDECESSORS = """
    SELECT j.job_id, j.deleted_at, CASE WHEN j.state IN ('succeeded', 'failed', 'cancelled') THEN j.state END AS ended
    FROM jobs AS j
    WHERE j.job_id = ANY($1::uuid[]) AND ($2::text IS NULL OR j.created_by = $2 OR EXISTS (
        SELECT FROM api_keys AS k
        WHERE k.key_id = $3 AND (k.shares = '{}' OR j.share = ANY (k.shares)) AND j.labels @> k.labels))
    ORDER BY j.job_id FOR SHARE OF j"""

_RECORD = """
    INSERT INTO job_dependencies (job_id, predecessor_id, condition, ended)
    SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::text[])"""

_NEWS = "SELECT DISTINCT job_id FROM job_dependencies WHERE ended IS NOT NULL AND NOT seen LIMIT $1"

# Marked before they are read: what ends in between is read too, and looked at once more.
_SEE = "UPDATE job_dependencies SET seen = true WHERE job_id = $1 AND ended IS NOT NULL AND NOT seen"

_LOCK = """
    SELECT spec ->> 'after_failure' AS rule FROM jobs WHERE job_id = $1 AND state = 'scheduled' FOR UPDATE"""

_DEPENDENCIES = """
    SELECT predecessor_id, condition, ended, NOT (condition = 'any' OR ended = 'succeeded') AS unmet
    FROM job_dependencies WHERE job_id = $1 ORDER BY predecessor_id"""

_START = """
    UPDATE jobs AS j SET run_at = due.run_at, state = CASE WHEN due.later THEN 'scheduled' ELSE 'running' END,
        started_at = CASE WHEN NOT due.later THEN now() END
    FROM (
        SELECT t.run_at, coalesce(t.run_at > now(), false) AS later
        FROM (SELECT (spec ->> 'run_at')::timestamptz AS run_at FROM jobs WHERE job_id = $1) AS t
    ) AS due
    WHERE j.job_id = $1 RETURNING j.state"""

# As after any failure or order to cancel, schedulers end it and tell of it.
_END = "UPDATE jobs SET state = $2, error = $3 WHERE job_id = $1"

# What is said of jobs that are gone stays.
_LOOK_AGAIN = """
    UPDATE job_dependencies AS d SET
        ended = CASE WHEN p.state IN ('succeeded', 'failed', 'cancelled') THEN p.state END, seen = false
    FROM (SELECT job_id, state FROM jobs WHERE job_id = ANY($2::uuid[]) ORDER BY job_id FOR SHARE) AS p
    WHERE d.job_id = $1 AND d.predecessor_id = p.job_id"""

_WAIT = "UPDATE jobs SET state = 'scheduled', run_at = NULL, started_at = NULL WHERE job_id = $1"


async def wait_for(connection: Connection, job_id: UUID, after: Sequence[Predecessor], reader: Reader) -> None:
    """Record what a new job, which is scheduled without a time, waits for; it starts at once if all is well already.

    Inside the transaction that submits it. Raises SpecError for a job that is not there, at least for this reader.
    """
    rows = await connection.fetch(_PREDECESSORS, [one.job_id for one in after], reader.principal, reader.key_id)
    found = {row["job_id"]: row for row in rows}
    for number, one in enumerate(after):
        if one.job_id not in found:
            fix = "there is no such job, or it was deleted: name jobs that are there"
            raise SpecError(f"after.{number}.job_id", str(one.job_id), fix)
        if found[one.job_id]["deleted_at"] is not None:
            raise SpecError(f"after.{number}.job_id", str(one.job_id), "this job is being deleted: leave it out")
    ends = [found[one.job_id]["ended"] for one in after]
    await connection.execute(_RECORD, job_id, [one.job_id for one in after], [one.condition for one in after], ends)
    await settle(connection, job_id)


async def find_news(connection: Connection, jobs_max: int) -> list[UUID]:
    """Some jobs of which a predecessor has ended and nobody has looked what that means."""
    return [row["job_id"] for row in await connection.fetch(_NEWS, jobs_max)]


async def settle(connection: Connection, job_id: UUID) -> None:
    """Start the job, end it, or leave it waiting, as its predecessors have ended. Inside a transaction."""
    job = await connection.fetchrow(_LOCK, job_id)
    await connection.execute(_SEE, job_id)
    if job is None:
        return  # it was cancelled meanwhile, or somebody else was faster
    predecessors = await connection.fetch(_DEPENDENCIES, job_id)
    if unmet := [row for row in predecessors if row["ended"] and row["unmet"]]:
        await _give_up(connection, job_id, unmet, skips=job["rule"] == "skip")
    elif all(row["ended"] for row in predecessors):
        await _start(connection, job_id)
    await notify(connection, JOBS_CHANNEL)


async def _start(connection: Connection, job_id: UUID) -> None:
    if await connection.fetchval(_START, job_id) == "running":
        await start_stages(connection, job_id)
        await stay_open(connection, job_id)
    log.info("predecessors ended", job=str(job_id))


async def _give_up(connection: Connection, job_id: UUID, unmet: Sequence[Record], *, skips: bool) -> None:
    job_ids = [str(row["predecessor_id"]) for row in unmet]
    states = ", ".join(f"job {row['predecessor_id']} {_ENDS[row['ended']]}" for row in unmet)
    message = f"{states}: this job was to run after its success{', and is skipped' if skips else ''}"
    error = {"type": "skipped" if skips else "predecessor_failed", "message": message, "jobs": job_ids}
    await connection.execute(_END, job_id, "cancelling" if skips else "failing", error)
    log.info("predecessor did not succeed", job=str(job_id), predecessors=job_ids)


async def wait_again(connection: Connection, job_id: UUID) -> bool:
    """Whether a job that is retried waits for others, as these are now: then it is scheduled, and nothing of it runs.

    Inside the transaction that retries it, under its lock. Raises Conflict if it could only fail again.
    """
    rows = await connection.fetch(_DEPENDENCIES, job_id)
    again = [row["predecessor_id"] for row in rows if row["ended"] is None or row["unmet"]]
    if not again:
        return False
    await connection.execute(_LOOK_AGAIN, job_id, again)
    rows = await connection.fetch(_DEPENDENCIES, job_id)
    if unmet := next((row for row in rows if row["ended"] and row["unmet"]), None):
        first = unmet["predecessor_id"]
        raise Conflict(
            f"this job runs after the success of job {first}, which {_ENDS[unmet['ended']]}: retry that one first "
            f"(retry_job; `piecework retry {first}`)"
        )
    if all(row["ended"] for row in rows):
        return False
    await connection.execute(_WAIT, job_id)
    return True
