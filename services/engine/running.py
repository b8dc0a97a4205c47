"""Looks at all running stages, a bounded number a statement: however many there are, no statement takes long."""

from itertools import pairwise
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.platform.database import Database

STAGES_MAX = 500  # of a page: five milliseconds of the look that costs most

# Where pages end; the index `stages_running` has no more rows than there are running stages.
_ENDS = """
    SELECT job_id, stage FROM (
        SELECT job_id, stage, row_number() OVER (ORDER BY job_id, stage) AS number FROM stages WHERE state = 'running'
    ) AS running WHERE number % $1 = 0 ORDER BY job_id, stage"""

_BEFORE_ALL = (UUID(int=0), -1)
_AFTER_ALL = (UUID(int=2**128 - 1), 2**15 - 1)


async def fetch_running(database: Database, statement: str, *arguments: Any) -> list[Record]:
    """The rows of a statement for each page of the running stages, in order of (job_id, stage).

    It looks at those after `($1, $2)` and up to `($3, $4)`; its own arguments are those from `$5` on. What begins or
    ends between two pages is seen or not: whoever acts on what is found asks again under a lock.
    """
    rows: list[Record] = []
    async with database.acquire() as connection:
        ends = [(row["job_id"], row["stage"]) for row in await connection.fetch(_ENDS, STAGES_MAX)]
        for after, until in pairwise([_BEFORE_ALL, *ends, _AFTER_ALL]):
            rows += await connection.fetch(statement, *after, *until, *arguments)
    return rows
