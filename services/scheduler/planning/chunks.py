"""Shared by all planning: a chunk of tasks and its cursor are one transaction, and so is a failure.

A chunk is read outside the transaction. It (or its error) counts only if no other scheduler has planned it meanwhile.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import structlog
from botocore.exceptions import ClientError, ParamValidationError

from services.contract.layout import SCHEDULER
from services.engine.attempt import LostOutput
from services.engine.jobs import fail_job, notify_jobs
from services.engine.lost_outputs import lose_outputs
from services.engine.transitions import plan_same_tasks, plan_tasks
from services.inputs.chunk import Chunk, SplitError
from services.platform import tracing
from services.platform.database import Connection
from services.platform.reads import ObjectLost
from services.platform.s3_faults import fault_of
from services.scheduler.loop import Context, passes
from services.scheduler.put_off import put_off
from services.scheduler.traces import trace_of

log = structlog.get_logger()

_LOCK = """
    SELECT s.task_count FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = $2
    WHERE j.job_id = $1 AND j.state = 'running' AND NOT s.planned AND s.plan_cursor IS NOT DISTINCT FROM $3
    FOR SHARE OF j FOR UPDATE OF s SKIP LOCKED"""

_SAVE = """
    UPDATE stages SET plan_cursor = $3, planned = $4, task_count = task_count + $5, state = 'running',
        tasks_expected = coalesce(ceil((task_count + $5) / $6::float8), tasks_expected),
        put_off_at = NULL, started_at = coalesce(started_at, now()),
        tasks_at = coalesce(tasks_at, CASE WHEN $5 > 0 THEN now() END)
    WHERE job_id = $1 AND stage = $2"""


async def lock_plan(connection: Connection, job_id: UUID, stage: int, cursor: dict[str, Any] | None) -> int | None:
    """Lock the plan; returns the stage's number of tasks, or None if the plan is no longer at `cursor`."""
    count: int | None = await connection.fetchval(_LOCK, job_id, stage, cursor)
    return count


async def save_plan(
    connection: Connection,
    job_id: UUID,
    stage: int,
    cursor: dict[str, Any],
    done: bool,
    count: int,
    share: float | None = None,
) -> None:
    """Record that `count` more tasks are planned, up to `cursor`: a `share` of the input. Needs the lock."""
    await connection.execute(_SAVE, job_id, stage, cursor, done, count, share or None)
    await notify_jobs(connection)


async def save_chunk(context: Context, job_id: UUID, stage: int, chunk: Chunk, cursor: dict[str, Any] | None) -> None:
    """Make the chunk's tasks, unless another scheduler has done so since `cursor` was read."""
    async with context.database.acquire() as connection, connection.transaction():
        first = await lock_plan(connection, job_id, stage, cursor)
        if first is None:
            return
        count = len(chunk.inputs) * chunk.repeat
        if chunk.repeat > 1:
            await plan_same_tasks(connection, job_id, stage, first, chunk.inputs[0], count)
        elif chunk.inputs:
            await plan_tasks(connection, job_id, stage, first, chunk.inputs)
        await save_plan(connection, job_id, stage, chunk.cursor, chunk.done, count, chunk.share)


async def _fail(context: Context, job_id: UUID, stage: int, message: str, cursor: dict[str, Any] | None) -> None:
    """Fail the job, unless another scheduler has continued the plan since `cursor` was read."""
    async with context.database.acquire() as connection, connection.transaction():
        if await lock_plan(connection, job_id, stage, cursor) is not None:
            await _fail_job(connection, job_id, stage, message)


async def _fail_job(connection: Connection, job_id: UUID, stage: int, message: str) -> None:
    error = {"type": "split_failed", "message": message, "stage": stage}
    await fail_job(connection, job_id, error, stage=stage)
    log.info("split failed", job=str(job_id), stage=stage, error=message)


async def _lose(
    context: Context, job_id: UUID, stage: int, error: ObjectLost, cursor: dict[str, Any] | None, where: str | None
) -> None:
    """Have a lost output of the stage before made again: the plan waits for it, as it did at first."""
    maker = context.settings.layout.maker(job_id, error.location)
    if maker is None:
        await _fail(context, job_id, stage, _explain(error, where), cursor)
        return
    lost = [LostOutput(maker.stage, maker.index, maker.attempt, error.location.uri)]
    async with context.database.acquire() as connection, connection.transaction():
        if await lock_plan(connection, job_id, stage, cursor) is None:
            return
        if why := await lose_outputs(connection, job_id, (stage, SCHEDULER), lost):
            await _fail_job(connection, job_id, stage, why)
    log.warning("output lost", job=str(job_id), stage=stage, error=str(error))


@asynccontextmanager
async def planning(
    context: Context, job_id: UUID, stage: int, cursor: dict[str, Any] | None, where: str | None
) -> AsyncIterator[None]:
    """An error that won't pass fails the job, with a message about `where`; any other puts the stage off."""
    try:
        with tracing.span("plan", await trace_of(context.database, job_id), job=job_id, stage=stage):
            yield
    except ObjectLost as error:
        await _lose(context, job_id, stage, error, cursor, where)
    except Exception as error:
        if passes(error):
            log.warning("plan put off", job=str(job_id), stage=stage, error=repr(error))
            await put_off(context.database, job_id, stage, error)
        else:
            await _fail(context, job_id, stage, _explain(error, where), cursor)


def _explain(error: Exception, where: str | None) -> str:
    """Why the input at `where` can't be split, for the job's user."""
    if isinstance(error, SplitError):
        return str(error)
    if fault_of(error) == "changed":
        return f"can't read {where}: the object was replaced while it was being split"
    if isinstance(error, ParamValidationError):
        return f"can't read {where}: S3 has no such names of buckets or keys"
    if not isinstance(error, ClientError | ObjectLost):
        log.exception("split broke", exc_info=error)
    return f"can't read {where}: {error}"
