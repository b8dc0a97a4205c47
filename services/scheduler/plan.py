"""Plan: the input of a job's first stage becomes ready tasks, a chunk and its cursor in one transaction."""

import asyncio
from typing import Any
from uuid import UUID

import structlog
from botocore.exceptions import ClientError, ParamValidationError
from pydantic import TypeAdapter

from services.common.jobs import fail_job, notify_jobs
from services.common.lifecycle import plan_same_tasks, plan_tasks
from services.common.spec import Input
from services.scheduler.loop import Grid, passes
from services.scheduler.splitters import Chunk, SplitError, split

log = structlog.get_logger()

JOBS_AT_ONCE = 8
_INPUT: TypeAdapter[Input] = TypeAdapter(Input)

_UNPLANNED = """
    SELECT j.job_id, j.spec -> 'input' AS input, s.plan_cursor
    FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = 0
    WHERE j.state = 'running' AND s.state = 'running' AND NOT s.planned
    ORDER BY j.priority DESC, j.job_id LIMIT $1"""

# A chunk is read outside the transaction: it (or its error) counts only if no other scheduler has planned it meanwhile.
_LOCK = """
    SELECT s.task_count FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = 0
    WHERE j.job_id = $1 AND j.state = 'running' AND NOT s.planned AND s.plan_cursor IS NOT DISTINCT FROM $2
    FOR SHARE OF j FOR UPDATE OF s SKIP LOCKED"""

_SAVE = """
    UPDATE stages SET plan_cursor = $2, planned = $3, task_count = task_count + $4 WHERE job_id = $1 AND stage = 0"""


async def step(grid: Grid) -> bool:
    """Plan one more chunk of some jobs; raises, after all have been tried, if S3 or the database failed every one."""
    jobs = await grid.pool.fetch(_UNPLANNED, JOBS_AT_ONCE)
    chunks = (_plan_chunk(grid, job["job_id"], job["input"], job["plan_cursor"]) for job in jobs)
    results = await asyncio.gather(*chunks, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors and len(errors) == len(jobs):
        raise errors[0]
    return bool(jobs)


async def _plan_chunk(grid: Grid, job_id: UUID, source: dict[str, Any], cursor: dict[str, Any] | None) -> None:
    try:
        chunk = await split(grid.aws, _INPUT.validate_python(source), cursor)
        await _save(grid, job_id, chunk, cursor)
    except Exception as error:
        if passes(error):
            log.warning("split put off", job=str(job_id), error=repr(error))
            raise
        await _fail(grid, job_id, _explain(error, source.get("uri") or source.get("prefix")), cursor)


def _explain(error: Exception, where: str | None) -> str:
    if isinstance(error, SplitError):
        return str(error)
    if isinstance(error, ClientError) and error.response["Error"]["Code"] in ("PreconditionFailed", "412"):
        return f"can't read {where}: the object was replaced while it was being split"
    if isinstance(error, ParamValidationError):
        return f"can't read {where}: S3 has no such names of buckets or keys"
    if not isinstance(error, ClientError):
        log.exception("split broke", exc_info=error)
    return f"can't read {where}: {error}"


async def _save(grid: Grid, job_id: UUID, chunk: Chunk, cursor: dict[str, Any] | None) -> None:
    async with grid.pool.acquire() as connection, connection.transaction():
        first = await connection.fetchval(_LOCK, job_id, cursor)
        if first is None:
            return
        count = len(chunk.inputs) * chunk.repeat
        if chunk.repeat > 1:
            await plan_same_tasks(connection, job_id, 0, first, chunk.inputs[0], count)
        elif chunk.inputs:
            await plan_tasks(connection, job_id, 0, first, chunk.inputs)
        await connection.execute(_SAVE, job_id, chunk.cursor, chunk.done, count)
        await notify_jobs(connection)


async def _fail(grid: Grid, job_id: UUID, message: str, cursor: dict[str, Any] | None) -> None:
    error = {"type": "split_failed", "message": message, "stage": 0}
    async with grid.pool.acquire() as connection, connection.transaction():
        if await connection.fetchval(_LOCK, job_id, cursor) is None:
            return
        await fail_job(connection, job_id, error, stage=0)
        log.info("split failed", job=str(job_id), error=message)
