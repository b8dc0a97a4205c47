"""Shared by all planning: a chunk of tasks and its cursor are one transaction, and so is a failure.

A chunk is read outside the transaction. It (or its error) counts only if no other scheduler has planned it meanwhile.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import structlog
from botocore.exceptions import ClientError, ParamValidationError

from services.contract.layout import SCHEDULER
from services.engine import plans
from services.engine.attempt import LostOutput
from services.engine.jobs import fail_job
from services.engine.lost_outputs import lose_outputs
from services.engine.plans import Plan, lock_plan
from services.inputs.chunk import Chunk, SplitError
from services.platform import tracing
from services.platform.database import Connection
from services.platform.reads import ObjectLost
from services.platform.s3_faults import fault_of
from services.scheduler.loop import Context, passes
from services.scheduler.planning.reuse import Reused
from services.scheduler.put_off import put_off
from services.scheduler.traces import trace_of

log = structlog.get_logger()


async def save_chunk(context: Context, plan: Plan, chunk: Chunk, reused: Reused | None = None) -> None:
    """Make the chunk's tasks, unless another scheduler has done so since the plan was read."""
    async with context.database.acquire() as connection, connection.transaction():
        first = await lock_plan(connection, plan)
        if first is not None:
            await plans.save_chunk(connection, plan.job_id, plan.stage, first, chunk)
            if reused is not None:
                await reused.save(connection, plan.job_id)


async def _fail(context: Context, plan: Plan, message: str) -> None:
    """Fail the job, unless another scheduler has continued the plan since it was read."""
    async with context.database.acquire() as connection, connection.transaction():
        if await lock_plan(connection, plan) is not None:
            await _fail_job(connection, plan.job_id, plan.stage, message)


async def _fail_job(connection: Connection, job_id: UUID, stage: int, message: str) -> None:
    error = {"type": "split_failed", "message": message, "stage": stage}
    await fail_job(connection, job_id, error, stage=stage)
    log.info("split failed", job=str(job_id), stage=stage, error=message)


async def _lose(context: Context, plan: Plan, error: ObjectLost, where: str | None) -> None:
    """Have a lost output of the stage before made again: the plan waits for it, as it did at first."""
    job_id, stage = plan.job_id, plan.stage
    maker = context.settings.layout.maker(job_id, error.location)
    if maker is None:
        await _fail(context, plan, _explain(error, where))
        return
    lost = [LostOutput(maker.stage, maker.index, maker.attempt, error.location.uri)]
    async with context.database.acquire() as connection, connection.transaction():
        if await lock_plan(connection, plan) is None:
            return
        if why := await lose_outputs(connection, job_id, (stage, SCHEDULER), lost):
            await _fail_job(connection, job_id, stage, why)
    log.warning("output lost", job=str(job_id), stage=stage, error=str(error))


@asynccontextmanager
async def planning(context: Context, plan: Plan, where: str | None) -> AsyncIterator[None]:
    """An error that won't pass fails the job, with a message about `where`; any other puts the stage off."""
    job_id, stage = plan.job_id, plan.stage
    try:
        with tracing.span("plan", await trace_of(context.database, job_id), job=job_id, stage=stage):
            yield
    except ObjectLost as error:
        await _lose(context, plan, error, where)
    except Exception as error:
        if passes(error):
            log.warning("plan put off", job=str(job_id), stage=stage, error=repr(error))
            await put_off(context.database, job_id, stage, error)
        else:
            await _fail(context, plan, _explain(error, where))


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
