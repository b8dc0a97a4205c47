"""Retention: until when what jobs leave is kept, and the deletion of what is due, in steps of any number of schedulers.

A deletion is a value of the job's row (`jobs.deletion`): which part goes, and how far that has come. Whoever takes a
step of it holds it for a while by putting off `expires_at`. A step that dies is taken again, from where the one before
ended. Each step is safe to take twice. A hold, a retry and a later deletion of more replace it, so a step first asks
whether it is still wanted.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from asyncpg import Record

from services.engine import audit, left_rows
from services.engine.errors import Conflict, NotFound
from services.engine.reasons.reason import Reason
from services.engine.spec import Keep
from services.platform.database import Connection, Database

DEFAULT = "default"  # the rule for what no other says
MESSAGE_DAYS = 15  # longer than SQS keeps a message, which must not make a trigger submit its job again

Deleted = Literal["interim", "results", "all"]


def explain_interim(job: Record) -> list[Reason]:
    """Why a job that runs again does more than was asked for."""
    deleted_at = job["interim_deleted_at"]
    if deleted_at is None or job["state"] not in ("running", "paused"):
        return []
    message = (
        f"its interim data were deleted at {deleted_at:%Y-%m-%dT%H:%M:%SZ}: tasks run again if their outputs are needed"
    )
    return [Reason(code="interim_deleted", message=message, since=deleted_at)]


# Rules.

_PUT_RULE = """
    INSERT INTO retention_rules (name, labels, keep) VALUES ($1, $2, $3)
    ON CONFLICT (name) DO UPDATE SET labels = excluded.labels, keep = excluded.keep
    RETURNING name, labels, keep, created_at"""

_NOTE_CHANGE = "UPDATE retention_rules SET revision = revision + 1 WHERE name = $1"


async def put_rule(connection: Connection, name: str, labels: Mapping[str, str], keep: Keep) -> Record:
    """Add or change a rule, inside the caller's transaction; all jobs that have ended come under it soon."""
    values = keep.model_dump(exclude_none=True)
    row = await connection.fetchrow(_PUT_RULE, name, dict(labels), values)
    assert row is not None
    await connection.execute(_NOTE_CHANGE, DEFAULT)
    return row


async def delete_rule(connection: Connection, name: str) -> None:
    """Raises NotFound, and Conflict for the default."""
    if name == DEFAULT:
        raise Conflict("the rule `default` can't be deleted; change it instead")
    if await connection.execute("DELETE FROM retention_rules WHERE name = $1", name) == "DELETE 0":
        raise NotFound(f"there is no retention rule {name}")
    await connection.execute(_NOTE_CHANGE, DEFAULT)


# After a job's end, a change of a rule, and each deletion of a part it is found again when more is due.
_ASSESS = """
    WITH rules AS MATERIALIZED (
        SELECT revision FROM retention_rules WHERE name = 'default'
    ), ended AS MATERIALIZED (
        SELECT job_id FROM jobs
        WHERE finished_at IS NOT NULL AND keep_revision < (SELECT revision FROM rules)
        ORDER BY keep_revision LIMIT $1 FOR UPDATE SKIP LOCKED
    )
    UPDATE jobs AS j SET keep_revision = rules.revision, expires_at = CASE
        WHEN j.hold THEN NULL
        WHEN j.deletion IS NOT NULL THEN now()
        ELSE nullif(least(k.interim_until, k.results_until, k.records_until), 'infinity') END
    FROM rules, ended LEFT JOIN kept_jobs AS k ON k.job_id = ended.job_id
    WHERE j.job_id = ended.job_id"""


async def assess_jobs(database: Database, jobs_max: int) -> int:
    """Find when something of jobs that have ended is due; returns of how many."""
    status: str = await database.execute(_ASSESS, jobs_max)
    return int(status.split()[-1])


# Orders of users.

_LOCK = "SELECT state, hold, deleted_at FROM jobs WHERE job_id = $1 FOR UPDATE"

_HOLD = "UPDATE jobs SET hold = true, expires_at = NULL WHERE job_id = $1"
_RELEASE = "UPDATE jobs SET hold = false, keep_revision = 0 WHERE job_id = $1"

_ORDER = """
    UPDATE jobs SET deleted_at = coalesce(deleted_at, now()), expires_at = now(), deletion = jsonb_build_object(
        'part', 'all', 'keeps_results', $2::boolean AND coalesce(results_deleted_at < finished_at, true) AND (
            state = 'succeeded' OR spec ->> 'output_queue' IS NOT NULL), 'ordered', true)
    WHERE job_id = $1 RETURNING deleted_at"""

_ORDER_RESULTS = """
    UPDATE deleted_jobs SET expires_at = now() WHERE job_id = $1 AND result IS NOT NULL AND NOT $2::boolean
    RETURNING deleted_at"""


async def _lock_job(connection: Connection, job_id: UUID) -> Record | None:
    row: Record | None = await connection.fetchrow(_LOCK, job_id)
    return row


async def hold_job(connection: Connection, job_id: UUID) -> None:
    """Let nothing of the job be deleted, whatever is due. Raises NotFound, Conflict."""
    job = await _lock_job(connection, job_id)
    if job is None:
        raise NotFound(f"no job has the id {job_id}")
    if job["deleted_at"] is not None:
        raise Conflict(f"this job is being deleted since {job['deleted_at']:%Y-%m-%dT%H:%M:%SZ}; nothing can be held")
    await connection.execute(_HOLD, job_id)


async def release_job(connection: Connection, job_id: UUID) -> None:
    """Let go what is due of the job. Raises NotFound."""
    if await connection.execute(_RELEASE, job_id) == "UPDATE 0":
        raise NotFound(f"no job has the id {job_id}")


async def delete_job(connection: Connection, job_id: UUID, *, keep_results: bool) -> datetime:
    """Have schedulers delete a job that has ended, with all that it has left or all but its results.

    Returns since when it is deleted. Of a job that was deleted before, its results go. Inside the caller's transaction;
    safe to repeat. Raises NotFound, and Conflict if it still runs, is held, or has results that something needs.
    """
    job = await _lock_job(connection, job_id)
    if not keep_results:
        await refuse_if_needed(connection, f"the results of job {job_id}", f"/{job_id}/")
    if job is None:
        since: datetime | None = await connection.fetchval(_ORDER_RESULTS, job_id, keep_results)
        if since is None:
            raise NotFound(f"no job has the id {job_id}")
        return since
    if job["state"] not in ("succeeded", "failed", "cancelled"):
        raise Conflict(f"a job that is {job['state']} can't be deleted: cancel it, and delete it when it has ended")
    if job["hold"]:
        raise Conflict(f"this job is held: release it first (release_job; `piecework release {job_id}`)")
    ordered: datetime = await connection.fetchval(_ORDER, job_id, keep_results)
    return ordered


# What may still read something in S3: jobs that have not ended, and what will submit jobs.
_NEEDED_BY = """
    SELECT 'the job ' || j.job_id || ' (' || j.state || ')' AS name FROM jobs AS j
    WHERE j.state NOT IN ('succeeded', 'failed', 'cancelled') AND (strpos(j.spec::text, $1) > 0 OR EXISTS (
        SELECT FROM stages AS s WHERE s.job_id = j.job_id AND strpos(s.inputs::text, $1) > 0))
    UNION ALL SELECT 'the schedule ' || c.name FROM schedules AS c WHERE strpos(c.job::text, $1) > 0
    UNION ALL SELECT 'the trigger ' || t.name FROM triggers AS t WHERE strpos(t.job::text, $1) > 0
    UNION ALL SELECT 'the processor ' || p.name || '@' || p.version FROM processors AS p
    WHERE p.deleted_at IS NULL AND strpos((p.spec -> 'inputs')::text, $1) > 0
    LIMIT 1"""


async def find_need(connection: Connection | Database, place: str) -> str | None:
    """Something that names this place in S3 and may still read it."""
    name: str | None = await connection.fetchval(_NEEDED_BY, place)
    return name


async def refuse_if_needed(connection: Connection, what: str, place: str) -> None:
    """Raises Conflict."""
    if (name := await find_need(connection, place)) is not None:
        raise Conflict(f"{name} reads {what}: delete that first, or wait until it has ended")


# Steps of schedulers.


@dataclass(frozen=True, slots=True)
class Deletion:
    """A part of a job that goes, and how far that has come: first its objects, then (of all) its rows."""

    job_id: UUID
    part: Deleted
    results_stage: int | None  # as Layout.part_of has it
    keeps_results: bool
    is_new: bool
    is_ordered: bool  # by a user, who wants it gone now
    progress: Mapping[str, Any]

    @property
    def place(self) -> str:
        """What names of everything that the job has in S3 hold."""
        return f"/{self.job_id}/"


# A job of which nothing is due yet only gets its time right: a retry, by a service of the release before, may have made
# it wrong.
_CLAIM = """
    WITH due AS MATERIALIZED (
        SELECT job_id FROM jobs WHERE expires_at <= now() AND finished_at IS NOT NULL AND NOT hold
        ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
    ), found AS MATERIALIZED (
        SELECT j.job_id, j.deletion AS before, k.results_stage, coalesce(j.deletion, CASE
            WHEN k.records_until <= now() THEN jsonb_build_object('part', 'all', 'keeps_results',
                k.results_until > now() AND coalesce(j.results_deleted_at < j.finished_at, true)
                AND (j.state = 'succeeded' OR k.results_stage = -1))
            WHEN k.results_until <= now() THEN '{"part": "results"}'::jsonb
            WHEN k.interim_until <= now() THEN '{"part": "interim"}'::jsonb END) AS deletion,
            nullif(least(k.interim_until, k.results_until, k.records_until), 'infinity') AS next
        FROM due JOIN jobs AS j ON j.job_id = due.job_id JOIN kept_jobs AS k ON k.job_id = due.job_id
    )
    UPDATE jobs AS j SET
        expires_at = CASE WHEN f.deletion IS NULL THEN f.next ELSE now() + $2 * interval '1 second' END,
        deletion = f.deletion,
        deleted_at = CASE WHEN f.deletion ->> 'part' = 'all' THEN coalesce(j.deleted_at, now()) END,
        interim_deleted_at = CASE WHEN f.before IS NULL AND f.deletion ->> 'part' = 'interim' THEN now()
            ELSE j.interim_deleted_at END,
        results_deleted_at = CASE WHEN f.before IS NULL AND f.deletion ->> 'part' = 'results' THEN now()
            ELSE j.results_deleted_at END
    FROM found AS f WHERE j.job_id = f.job_id
    RETURNING j.job_id, j.deletion, f.results_stage, f.before IS NULL AS is_new"""


async def claim_deletions(database: Database, jobs_max: int, hold_seconds: float) -> list[Deletion]:
    """Deletions of which a step is due; nobody else takes one for this long."""
    return [
        Deletion(
            row["job_id"],
            row["deletion"]["part"],
            row["results_stage"],
            row["deletion"].get("keeps_results", False),
            row["is_new"],
            row["deletion"].get("ordered", False),
            row["deletion"].get("progress", {}),
        )
        for row in await database.fetch(_CLAIM, jobs_max, hold_seconds)
        if row["deletion"] is not None
    ]


_ADVANCE = """
    UPDATE jobs SET deletion = jsonb_set(deletion, '{progress}', $3), expires_at = now() + $4 * interval '1 second'
    WHERE job_id = $1 AND deletion ->> 'part' = $2 AND finished_at IS NOT NULL AND NOT hold"""

_PUT_OFF = """
    UPDATE jobs SET expires_at = now() + $3 * interval '1 second'
    WHERE job_id = $1 AND deletion ->> 'part' = $2 AND finished_at IS NOT NULL AND NOT hold"""

_CALL_OFF = """
    UPDATE jobs SET deletion = NULL, deleted_at = NULL, expires_at = now() + $3 * interval '1 second',
        results_deleted_at = CASE WHEN $2 = 'results' THEN NULL ELSE results_deleted_at END
    WHERE job_id = $1 AND deletion ->> 'part' = $2 AND deletion ->> 'ordered' IS NULL"""

_END = """
    UPDATE jobs SET deletion = NULL, expires_at = NULL, keep_revision = 0
    WHERE job_id = $1 AND deletion ->> 'part' = $2 AND finished_at IS NOT NULL"""


async def advance(database: Database, deletion: Deletion, progress: Mapping[str, Any], hold_seconds: float) -> bool:
    """Record how far a deletion has come; False if it is no longer wanted. What was there before this call is not what
    a retry makes, which may begin at any time."""
    status = await database.execute(_ADVANCE, deletion.job_id, deletion.part, dict(progress), hold_seconds)
    return bool(status == "UPDATE 1")


async def put_off(database: Database, deletion: Deletion, seconds: float) -> None:
    """Let the next step come after this number of seconds."""
    await database.execute(_PUT_OFF, deletion.job_id, deletion.part, seconds)


async def call_off(database: Database, deletion: Deletion, seconds: float) -> None:
    """Delete nothing for this number of seconds; nothing has been deleted yet."""
    await database.execute(_CALL_OFF, deletion.job_id, deletion.part, seconds)


async def end_deletion(database: Database, deletion: Deletion) -> None:
    """The part is gone."""
    await database.execute(_END, deletion.job_id, deletion.part)


# The totals of pools have what jobs did that are gone: their attempts must be among them first. Without a stats service
# nothing is ever rolled up.
_IS_ROLLED_UP = """
    SELECT w.txid = '0' OR w.rolled_up_at > j.deleted_at FROM stats_watermark AS w, jobs AS j WHERE j.job_id = $1"""


async def is_rolled_up(database: Database, job_id: UUID) -> bool:
    """Whether the stats service has seen all attempts of a job that is being deleted."""
    return bool(await database.fetchval(_IS_ROLLED_UP, job_id))


# Rows go in slices by (stage, index): a query that begins where the slice before ended reads no dead rows. `$4` bounds
# a slice, but for further attempts of its last task. Its end is known before the rows are read (by subqueries, not by a
# join), else each slice would read all rows after it.
_DELETE_ATTEMPTS = """
    WITH slice AS MATERIALIZED (
        SELECT stage, index FROM attempts WHERE job_id = $1 AND (stage, index) > ($2, $3)
        ORDER BY stage, index LIMIT $4
    ), last AS MATERIALIZED (
        SELECT stage, index FROM slice ORDER BY stage DESC, index DESC LIMIT 1
    ), gone AS (
        DELETE FROM attempts AS a
        WHERE a.job_id = $1 AND (a.stage, a.index) > ($2, $3)
          AND (a.stage, a.index) <= ((SELECT stage FROM last), (SELECT index FROM last))
    )
    SELECT stage, index FROM last"""

_DELETE_TASKS = """
    WITH slice AS MATERIALIZED (
        SELECT stage, index FROM tasks WHERE job_id = $1 AND (stage, index) > ($2, $3)
        ORDER BY stage, index LIMIT $4
    ), last AS MATERIALIZED (
        SELECT stage, index FROM slice ORDER BY stage DESC, index DESC LIMIT 1
    ), gone AS (
        DELETE FROM tasks AS t
        WHERE t.job_id = $1 AND (t.stage, t.index) > ($2, $3)
          AND (t.stage, t.index) <= ((SELECT stage FROM last), (SELECT index FROM last))
    )
    SELECT stage, index FROM last"""

_DELETE_LOSSES = """
    WITH slice AS MATERIALIZED (
        SELECT reader_stage AS stage, reader_index AS index FROM lost_outputs
        WHERE job_id = $1 LIMIT $4
    ), gone AS (
        DELETE FROM lost_outputs AS l USING slice AS s
        WHERE l.job_id = $1 AND l.reader_stage = s.stage AND l.reader_index = s.index
    )
    SELECT $2::smallint AS stage, $3::integer AS index FROM slice LIMIT 1"""

_DELETE_KEYS = """
    WITH slice AS MATERIALIZED (
        SELECT key, stage, index FROM task_keys WHERE job_id = $1 LIMIT $4
    ), gone AS (
        DELETE FROM task_keys AS k USING slice AS s
        WHERE k.key = s.key AND k.job_id = $1 AND k.stage = s.stage AND k.index = s.index
    )
    SELECT $2::smallint AS stage, $3::integer AS index FROM slice LIMIT 1"""

_DELETE_MINUTES = """
    WITH slice AS MATERIALIZED (
        SELECT stage, minute FROM stage_minutes WHERE job_id = $1 LIMIT $4
    ), gone AS (
        DELETE FROM stage_minutes AS m USING slice AS s
        WHERE m.job_id = $1 AND m.stage = s.stage AND m.minute = s.minute
    )
    SELECT $2::smallint AS stage, $3::integer AS index FROM slice LIMIT 1"""

_ROWS = {
    "attempts": _DELETE_ATTEMPTS,
    "tasks": _DELETE_TASKS,
    "lost_outputs": _DELETE_LOSSES,
    "task_keys": _DELETE_KEYS,
    "stage_minutes": _DELETE_MINUTES,
}
TABLES = tuple(_ROWS)  # with many rows of a job, in the order in which they go
LEFT = ("attempts", "tasks")  # of these, the rows that a job may leave to its month


async def leaves_rows(database: Database | Connection, job_id: UUID, is_ordered: bool) -> bool:
    """Whether the job's rows go with its month, which is over; then this stays so, unless a user orders more."""
    return not is_ordered and await left_rows.is_month_over(database, job_id)


async def delete_slice(
    database: Database, job_id: UUID, table: str, after: tuple[int, int], rows_max: int
) -> tuple[int, int] | None:
    """Delete the next rows of a job from one of TABLES; returns the stage and index of the last, None at the end."""
    row = await database.fetchrow(_ROWS[table], job_id, *after, rows_max)
    return None if row is None else (row["stage"], row["index"])


_FORGOTTEN = """
    SELECT j.deletion, j.created_by, k.results_until,
        EXISTS (SELECT FROM tasks AS t WHERE t.job_id = j.job_id)
            OR EXISTS (SELECT FROM attempts AS a WHERE a.job_id = j.job_id) AS has_rows
    FROM jobs AS j JOIN kept_jobs AS k ON k.job_id = j.job_id
    WHERE j.job_id = $1 AND j.deletion ->> 'part' = 'all' AND NOT j.hold FOR UPDATE OF j"""

_REMEMBER = """
    INSERT INTO deleted_jobs (job_id, name, share, labels, created_by, trigger_id, trigger_message, results_stage,
        result, created_at, finished_at, deleted_at, expires_at)
    SELECT j.job_id, j.name, j.share, j.labels, j.created_by, j.trigger_id, j.trigger_message, k.results_stage,
        CASE WHEN $2 THEN coalesce((SELECT s.result FROM stages AS s WHERE s.job_id = j.job_id AND s.result ? 'manifest'
            ORDER BY s.stage DESC LIMIT 1), '{"files": []}') END,
        j.created_at, j.finished_at, j.deleted_at,
        CASE WHEN $2 THEN nullif(k.results_until, 'infinity') ELSE j.created_at + $3 * interval '1 day' END
    FROM jobs AS j JOIN kept_jobs AS k ON k.job_id = j.job_id
    WHERE j.job_id = $1 AND ($2 OR j.trigger_id IS NOT NULL AND j.created_at > now() - $3 * interval '1 day')"""

_FORGET_SUMS = ("DELETE FROM stage_counters WHERE job_id = $1", "DELETE FROM stage_stats WHERE job_id = $1")
_FORGET = ("DELETE FROM bundles WHERE job_id = $1", "DELETE FROM jobs WHERE job_id = $1")  # and its stages


async def forget_sums(connection: Connection | Database, job_id: UUID) -> None:
    """Delete what was counted of a job that is forgotten."""
    for statement in _FORGET_SUMS:
        await connection.execute(statement, job_id)


async def forget_job(database: Database, deletion: Deletion) -> bool:
    """Delete what is left of a job's rows, or leave them to its month, in one transaction.

    False if others have come since: begin again.
    """
    async with database.acquire() as connection, connection.transaction():
        job = await connection.fetchrow(_FORGOTTEN, deletion.job_id)
        if job is None:
            return True
        if await leaves_rows(connection, deletion.job_id, job["deletion"].get("ordered", False)):
            await left_rows.leave(connection, deletion.job_id)
        elif job["has_rows"]:
            return False
        else:
            await forget_sums(connection, deletion.job_id)
        await connection.execute(_REMEMBER, deletion.job_id, deletion.keeps_results, MESSAGE_DAYS)
        for statement in _FORGET:
            await connection.execute(statement, deletion.job_id)
        if not job["deletion"].get("ordered"):
            actor = audit.Actor("scheduler", job["created_by"])
            summary = {"reason": "retention", "results": "keep" if deletion.keeps_results else "delete"}
            await audit.record(connection, actor, "delete_job", "job", deletion.job_id, summary)
        return True


# What is left of deleted jobs: results, and the memory of a message.

_CLAIM_LEFT = """
    UPDATE deleted_jobs SET expires_at = now() + $2 * interval '1 second' WHERE job_id = ANY(ARRAY(
        SELECT job_id FROM deleted_jobs WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING job_id, result IS NOT NULL AS has_results"""

_RESULTS_GONE = """
    UPDATE deleted_jobs SET result = NULL, expires_at = greatest(now(), created_at + $2 * interval '1 day')
    WHERE job_id = $1 AND trigger_id IS NOT NULL"""

_LEFT_GONE = """
    DELETE FROM deleted_jobs
    WHERE job_id = $1 AND (trigger_id IS NULL OR created_at < now() - $2 * interval '1 day')"""


async def claim_left(database: Database, jobs_max: int, hold_seconds: float) -> list[Record]:
    """`job_id` and `has_results` of deleted jobs of which what is left is due."""
    rows: list[Record] = await database.fetch(_CLAIM_LEFT, jobs_max, hold_seconds)
    return rows


async def put_off_left(database: Database, job_id: UUID, seconds: float) -> None:
    """Let the next step come after this number of seconds."""
    statement = "UPDATE deleted_jobs SET expires_at = now() + $2 * interval '1 second' WHERE job_id = $1"
    await database.execute(statement, job_id, seconds)


async def forget_left(database: Database, job_id: UUID) -> None:
    """A deleted job's results are gone: forget it, unless its trigger's message may come again."""
    await database.execute(_RESULTS_GONE, job_id, MESSAGE_DAYS)
    await database.execute(_LEFT_GONE, job_id, MESSAGE_DAYS)
