"""Logs that somebody reads while their tasks run: only these are put into S3 before their end."""

from uuid import UUID

from services.platform.database import Database

FOLLOWED_SECONDS = 30.0  # from the last time that somebody asked

# Nothing waits for a bundle that is being ended or cancelled; who follows asks again soon.
_FOLLOW = """
    WITH task AS (
        SELECT attempt FROM tasks WHERE job_id = $1 AND stage = $2 AND index = $3 AND state = 'running'
    ), told AS (
        UPDATE bundles AS b SET followed_until = now() + $4 * interval '1 second', followed = ARRAY(
            SELECT DISTINCT unnest(CASE WHEN b.followed_until > now() THEN b.followed END || $3::integer))
        FROM (
            SELECT bundle_id FROM bundles
            WHERE job_id = $1 AND stage = $2 AND first <= $3 AND first + count > $3 AND worker_id IS NOT NULL
              AND EXISTS (SELECT FROM task)
              AND NOT coalesce($3 = ANY(followed) AND followed_until > now() + $4 / 2 * interval '1 second', false)
            FOR UPDATE SKIP LOCKED
        ) AS found WHERE b.bundle_id = found.bundle_id
    )
    SELECT attempt FROM task"""


async def follow_log(database: Database, job_id: UUID, stage: int, index: int) -> int | None:
    """Have the worker put the log of a running task from now on; returns its attempt, None if it does not run."""
    attempt: int | None = await database.fetchval(_FOLLOW, job_id, stage, index, FOLLOWED_SECONDS)
    return attempt
