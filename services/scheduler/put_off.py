"""What can't get on just now, since S3 is out of reach, say, is put off: not tried again at once, and after all else.

So however many stages are put off, time and again, those that can get on never wait for a turn behind them: statements
that look for stages to plan or merge order them by `put_off_at NULLS FIRST`, then by priority, job and stage.
"""

from uuid import UUID

from services.platform.database import Database

PUT_OFF_SECONDS = 1.0


async def put_off(database: Database, job_id: UUID, stage: int) -> None:
    """The stage has to wait for its next turn."""
    await database.execute("UPDATE stages SET put_off_at = now() WHERE job_id = $1 AND stage = $2", job_id, stage)
