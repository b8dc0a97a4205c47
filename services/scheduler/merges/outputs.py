"""The outputs of a job's tasks, a page of rows at a time."""

from collections.abc import AsyncIterator
from uuid import UUID

from asyncpg import Record

from services.common.database import Pool

ROWS_PER_PAGE = 5000

_OUTPUTS = """
    SELECT stage, index, attempt, output FROM tasks
    WHERE job_id = $1 AND (stage, index) > ($2, $3) AND stage <= $4 AND state = 'succeeded'
    ORDER BY stage, index LIMIT $5"""


async def succeeded_tasks(pool: Pool, job_id: UUID, first_stage: int, last_stage: int) -> AsyncIterator[Record]:
    """`stage, index, attempt, output` of the succeeded tasks of these stages, in order."""
    stage, index = first_stage, -1
    while True:
        rows = await pool.fetch(_OUTPUTS, job_id, stage, index, last_stage, ROWS_PER_PAGE)
        for row in rows:
            yield row
        if len(rows) < ROWS_PER_PAGE:
            return
        stage, index = rows[-1]["stage"], rows[-1]["index"]
