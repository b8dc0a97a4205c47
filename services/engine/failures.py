"""The failures of a job's tasks, those of one kind together: by the fingerprint of their errors (migration 0040)."""

from uuid import UUID

from asyncpg import Record

from services.platform.database import Database

ATTEMPTS_MAX = 50_000  # that are looked at
KINDS_MAX = 100  # of failures that are told apart

# Each kind with its first attempt, by the order of the tasks. Tasks that were tried again well are among them.
_FAILURES = """
    WITH tried AS MATERIALIZED (
        SELECT stage, index, attempt, finished_at, error FROM attempts
        WHERE job_id = $1 AND outcome <> 'succeeded' AND outcome IN ('failed', 'timeout', 'memory', 'lost')
          AND ($2::smallint IS NULL OR stage = $2) ORDER BY stage, index LIMIT $3
    ), kinds AS MATERIALIZED (
        SELECT error_fingerprint(error) AS fingerprint, count(*) AS attempts, count(DISTINCT (stage, index)) AS tasks,
            min(finished_at) AS first_at, max(finished_at) AS last_at,
            (array_agg(stage ORDER BY stage, index, attempt))[1] AS stage,
            (array_agg(index ORDER BY stage, index, attempt))[1] AS index,
            (array_agg(attempt ORDER BY stage, index, attempt))[1] AS attempt,
            (array_agg(error ORDER BY stage, index, attempt))[1] AS error
        FROM tried WHERE error IS NOT NULL GROUP BY error_fingerprint(error)
    )
    SELECT k.fingerprint, k.attempts, k.tasks, k.first_at, k.last_at, k.stage, k.index, k.attempt, k.error, t.input,
        (SELECT count(*) FROM tried) AS looked_at
    FROM kinds AS k LEFT JOIN tasks AS t ON t.job_id = $1 AND t.stage = k.stage AND t.index = k.index
    ORDER BY k.tasks DESC, k.fingerprint LIMIT $4"""


async def group_failures(database: Database, job_id: UUID, stage: int | None) -> tuple[list[Record], bool]:
    """The kinds of failures, the most frequent first, and whether all attempts were looked at."""
    rows = await database.fetch(_FAILURES, job_id, stage, ATTEMPTS_MAX, KINDS_MAX)
    return rows, not rows or rows[0]["looked_at"] < ATTEMPTS_MAX
