"""Jobs that wait for other jobs: each starts when all have ended as it asks, or ends because one did not.

A trigger notes the end of a predecessor in the transaction of that end (`job_dependencies.ended`, migration 0045). What
it means for the job that waits is decided later, under that job's lock, by whichever scheduler finds the end not yet
`seen`: so nothing is lost if one dies in between, and two decide once. Only ends are looked at, never jobs that wait.

A job that waits for another by index runs at once: its stage is planned, but each of its tasks is made only when the
other job's task of the same index has ended as it must (`follow`).
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record

from services.engine.errors import Conflict, SpecError
from services.engine.places import Reader
from services.engine.spec import Predecessor
from services.engine.stages import start_stages, stay_open
from services.engine.transitions import plan_numbered_tasks
from services.inputs.range.split import task_input
from services.inputs.spec import RangeInput
from services.platform.database import JOBS_CHANNEL, Connection, notify

log = structlog.get_logger()

_ENDS = {"failed": "has failed", "cancelled": "was cancelled"}

# Their lock keeps them from ending before this transaction has recorded who waits for them.
_PREDECESSORS = """
    SELECT j.job_id, j.deleted_at, CASE WHEN j.state IN ('succeeded', 'failed', 'cancelled') THEN j.state END AS ended,
        last.stage, last.options -> 'array' AS array
    FROM jobs AS j CROSS JOIN LATERAL (
        SELECT s.stage, s.options FROM stages AS s WHERE s.job_id = j.job_id AND s.kind = 'map'
        ORDER BY s.stage DESC LIMIT 1
    ) AS last
    WHERE j.job_id = ANY($1::uuid[]) AND ($2::text IS NULL OR j.created_by = $2 OR EXISTS (
        SELECT FROM api_keys AS k
        WHERE k.key_id = $3 AND (k.shares = '{}' OR j.share = ANY (k.shares)) AND j.labels @> k.labels))
    ORDER BY j.job_id FOR SHARE OF j"""

_RECORD = """
    INSERT INTO job_dependencies (job_id, predecessor_id, condition, ended, stage)
    SELECT $1, * FROM unnest($2::uuid[], $3::text[], $4::text[], $5::smallint[])"""

# All tasks of an array that follows another are known; each is made when its time comes.
_PLAN = "UPDATE stages SET planned = true, task_count = tasks_expected WHERE job_id = $1 AND stage = 0"

_NEWS = "SELECT DISTINCT job_id FROM job_dependencies WHERE ended IS NOT NULL AND NOT seen LIMIT $1"

# Marked before they are read: what ends in between is read too, and looked at once more.
_SEE = "UPDATE job_dependencies SET seen = true WHERE job_id = $1 AND ended IS NOT NULL AND NOT seen"

_LOCK = """
    SELECT state, spec ->> 'after_failure' AS rule, spec -> 'input' AS input FROM jobs
    WHERE job_id = $1 AND state IN ('scheduled', 'running', 'paused') FOR UPDATE"""

_DEPENDENCIES = """
    SELECT predecessor_id, condition, ended, NOT (condition = 'any' OR ended = 'succeeded') AS unmet, stage
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

# What is said of jobs that are gone stays. The end of a job locks its row before it notes it here, and so does this.
_LOOK_AGAIN = """
    UPDATE job_dependencies AS d SET
        ended = CASE WHEN p.state IN ('succeeded', 'failed', 'cancelled') THEN p.state END, seen = false
    FROM (
        SELECT job_id, state FROM jobs
        WHERE job_id = ANY(ARRAY(SELECT w.predecessor_id FROM job_dependencies AS w WHERE w.job_id = $1))
        ORDER BY job_id FOR SHARE
    ) AS p
    WHERE d.job_id = $1 AND d.predecessor_id = p.job_id"""

_FOLLOW_AGAIN = "UPDATE job_dependencies SET tasks_seen = 0, followed = false WHERE job_id = $1 AND stage IS NOT NULL"

# A task that is there, whose predecessor in a job that runs again has yet to end as it must.
_TOO_EARLY = """
    SELECT d.predecessor_id, t.index FROM job_dependencies AS d
    JOIN tasks AS t ON t.job_id = d.job_id AND t.stage = 0 AND t.state <> 'succeeded'
    LEFT JOIN tasks AS b ON b.job_id = d.predecessor_id AND b.stage = d.stage AND b.index = t.index
    WHERE d.job_id = $1 AND d.stage IS NOT NULL AND d.ended IS NULL
      AND NOT coalesce(b.state = 'succeeded' OR d.condition = 'any' AND b.state IN ('failed', 'cancelled'), false)
    ORDER BY t.index LIMIT 1"""

_WAIT = "UPDATE jobs SET state = 'scheduled', run_at = NULL, started_at = NULL WHERE job_id = $1"


async def wait_for(
    connection: Connection, job_id: UUID, after: Sequence[Predecessor], reader: Reader, tasks: int | None
) -> None:
    """Record what a new job, which is scheduled without a time, waits for; it starts at once if all is well already.

    `tasks` are those of its first stage, if they are known.

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
        if one.by_index and (size := _array_size(found[one.job_id]["array"])) != tasks:
            fix = f"that job's last stage has {size or 'not a known number of'} tasks, and this job has {tasks}"
            raise SpecError(f"after.{number}.by_index", True, f"{fix}: both must be arrays of the same size")
    ends = [found[one.job_id]["ended"] for one in after]
    stages = [found[one.job_id]["stage"] if one.by_index else None for one in after]
    names, conditions = [one.job_id for one in after], [one.condition for one in after]
    await connection.execute(_RECORD, job_id, names, conditions, ends, stages)
    if any(one.by_index for one in after):
        await connection.execute(_PLAN, job_id)
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
    elif job["state"] == "scheduled" and all(row["ended"] for row in predecessors if row["stage"] is None):
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
    """Whether a job that is retried waits for others, as these are now: then it is scheduled, and its stages are held.

    Inside the transaction that retries it, under its lock. Raises Conflict if it could only fail again, or if a task of
    it that is to run again can't wait for the one that it follows.
    """
    await connection.execute(_LOOK_AGAIN, job_id)
    await connection.execute(_FOLLOW_AGAIN, job_id)
    rows = await connection.fetch(_DEPENDENCIES, job_id)
    if unmet := next((row for row in rows if row["ended"] and row["unmet"]), None):
        first = unmet["predecessor_id"]
        raise Conflict(
            f"this job runs after the success of job {first}, which {_ENDS[unmet['ended']]}: retry that one first "
            f"(retry_job; `piecework retry {first}`)"
        )
    if early := await connection.fetchrow(_TOO_EARLY, job_id):
        first = early["predecessor_id"]
        raise Conflict(
            f"task {early['index']} of this job follows that of job {first}, which is yet to run again: retry this job "
            "when that one has ended"
        )
    if all(row["ended"] for row in rows if row["stage"] is None):
        return False
    await connection.execute(_WAIT, job_id)
    return True


# Arrays that follow others, of whose tasks some have ended since the last look; and those that follow no more.
_FOLLOWING = """
    SELECT DISTINCT d.job_id FROM job_dependencies AS d
    JOIN jobs AS j ON j.job_id = d.job_id AND j.state <> 'scheduled'
    CROSS JOIN LATERAL stage_sums(d.predecessor_id, d.stage) AS c
    WHERE d.stage IS NOT NULL AND NOT d.followed
      AND (j.state NOT IN ('running', 'paused') OR d.ended IS NOT NULL
        OR d.tasks_seen <> c.succeeded + c.failed + c.cancelled)
    LIMIT $1"""

# Counted before its tasks are read: those that end in between are looked at once more.
_NOTE_TASKS = """
    UPDATE job_dependencies AS d SET tasks_seen = coalesce((
        SELECT c.succeeded + c.failed + c.cancelled FROM stage_sums(d.predecessor_id, d.stage) AS c), 0)
    WHERE d.job_id = $1 AND d.stage IS NOT NULL RETURNING d.predecessor_id, d.stage, d.condition, d.ended,
        NOT (d.condition = 'any' OR d.ended = 'succeeded') AS unmet"""

_ENDED_TASKS = """
    SELECT index, state FROM tasks
    WHERE job_id = $1 AND stage = $2 AND state IN ('succeeded', 'failed', 'cancelled')"""

_MADE = "SELECT index FROM tasks WHERE job_id = $1 AND stage = 0"

_FOLLOWED = "UPDATE job_dependencies SET followed = true WHERE job_id = $1 AND stage IS NOT NULL"
_BEGIN = "UPDATE stages SET tasks_at = coalesce(tasks_at, now()) WHERE job_id = $1 AND stage = 0"


async def find_following(connection: Connection, jobs_max: int) -> list[UUID]:
    """Some jobs that wait for others by index, and may have more tasks now."""
    return [row["job_id"] for row in await connection.fetch(_FOLLOWING, jobs_max)]


async def follow(connection: Connection, job_id: UUID) -> None:
    """Make the tasks whose predecessors have ended as they must; give the job up if one can't. Inside a transaction."""
    job = await connection.fetchrow(_LOCK, job_id)
    if job is None:  # it has ended, or is about to
        await connection.execute(_FOLLOWED, job_id)
        return
    predecessors = await connection.fetch(_NOTE_TASKS, job_id)
    array = RangeInput.model_validate(job["input"], extra="ignore")
    met = set(range(len(array.numbers)))
    for one in predecessors:
        if one["ended"] is not None and one["unmet"]:
            return  # an end that is yet to be settled
        ended = await connection.fetch(_ENDED_TASKS, one["predecessor_id"], one["stage"])
        good = {row["index"] for row in ended if row["state"] == "succeeded" or one["condition"] == "any"}
        if one["ended"] is None:
            met &= good
        elif bad := {row["index"] for row in ended} - good:
            await _give_up_index(connection, job_id, one["predecessor_id"], min(bad), skips=job["rule"] == "skip")
            return
    made = {row["index"] for row in await connection.fetch(_MADE, job_id)}
    if new := sorted(met - made):
        await plan_numbered_tasks(connection, job_id, 0, {index: task_input(array, index) for index in new})
        await connection.execute(_BEGIN, job_id)
        await notify(connection, JOBS_CHANNEL)
    if len(made) + len(new) == len(array.numbers):
        await connection.execute(_FOLLOWED, job_id)


async def _give_up_index(connection: Connection, job_id: UUID, predecessor: UUID, index: int, *, skips: bool) -> None:
    """That job has succeeded, since it tolerated the failure of a task."""
    what = f"task {index} of job {predecessor} did not succeed"
    message = f"{what}: task {index} of this job was to run after its success"
    error = {"type": "skipped" if skips else "predecessor_failed", "message": message, "jobs": [str(predecessor)]}
    await connection.execute(_END, job_id, "cancelling" if skips else "failing", error)
    await notify(connection, JOBS_CHANNEL)


def _array_size(array: dict[str, Any] | None) -> int | None:
    return None if array is None else len(RangeInput.model_validate(array, extra="ignore").numbers)
