"""A stage that cannot proceed right now (S3 is down, say) is put off: retried after a pause, behind all other stages.

Statements that look for stages to plan or merge order them by `put_off_at NULLS FIRST`, then by priority, job and
stage. So stages that are put off again and again never delay those that can proceed.
"""

from uuid import UUID

from services.platform.database import Database, storable
from services.scheduler.metrics import PUT_OFFS

PUT_OFF_SECONDS = 1.0
ERROR_LENGTH_MAX = 1000


_PUT_OFF = """
    UPDATE stages SET put_off_at = now(), put_off_error = $3,
        put_off_since = CASE WHEN put_off_at IS NULL THEN now() ELSE coalesce(put_off_since, put_off_at) END
    WHERE job_id = $1 AND stage = $2"""


async def put_off(database: Database, job_id: UUID, stage: int, error: Exception) -> None:
    """Put the stage off: it waits for its next turn, and its job says why."""
    why = storable(f"{error}" or repr(error))[:ERROR_LENGTH_MAX]
    await database.execute(_PUT_OFF, job_id, stage, why)
    PUT_OFFS.inc()
