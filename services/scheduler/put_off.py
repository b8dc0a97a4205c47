"""A stage that cannot proceed right now (S3 is down, say) is put off: retried after a pause, behind all other stages.

Statements that look for stages to plan or merge order them by `put_off_at NULLS FIRST`, then by priority, job and
stage. So stages that are put off again and again never delay those that can proceed.
"""

from uuid import UUID

from services.platform.database import Database

PUT_OFF_SECONDS = 1.0


async def put_off(database: Database, job_id: UUID, stage: int) -> None:
    """Put the stage off: it waits for its next turn."""
    await database.execute("UPDATE stages SET put_off_at = now() WHERE job_id = $1 AND stage = $2", job_id, stage)
