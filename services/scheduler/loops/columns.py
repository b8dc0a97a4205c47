"""Columns: the types of a stage's columns are found once, from samples of its tasks' inputs, before any task is sent.

Every part of the input then has the same columns, whatever values it happens to hold.
"""

from uuid import UUID

import structlog
from asyncpg import Record

from services.contract.task_input import parse_input
from services.engine.jobs import notify_jobs
from services.inputs.columns import Columns
from services.inputs.sample import find_columns, spread
from services.scheduler import put_off
from services.scheduler.loop import Context, passes
from services.scheduler.slots import Slots

STAGES_AT_ONCE = 4

log = structlog.get_logger()

_DUE = """
    SELECT j.job_id, s.stage, s.task_count FROM jobs AS j JOIN stages AS s USING (job_id)
    WHERE j.state = 'running' AND s.state = 'running' AND s.planned AND s.columns_due
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
    ORDER BY s.put_off_at NULLS FIRST, j.priority DESC, j.job_id, s.stage LIMIT $2"""

_INPUTS = "SELECT input FROM tasks WHERE job_id = $1 AND stage = $2 AND index = ANY($3::integer[]) ORDER BY index"

_FOUND = """
    UPDATE stages SET columns_due = false, put_off_at = NULL,
        options = options || jsonb_build_object('found_columns', $3::jsonb)
    WHERE job_id = $1 AND stage = $2 AND columns_due"""


async def step(context: Context) -> bool:
    """Find the columns of some stages; True while there are any."""
    slots: Slots[tuple[UUID, int]] = context.slots["columns"]
    under_way, free = slots.keys, slots.free(STAGES_AT_ONCE)
    stages = await context.database.fetch(_DUE, put_off.PUT_OFF_SECONDS, free + len(under_way))
    waiting = {(stage["job_id"], stage["stage"]): stage for stage in stages}
    chosen = [key for key in waiting if key not in under_way][:free]
    await slots.advance({key: _find(context, waiting[key]) for key in chosen})
    return bool(stages)


async def _find(context: Context, stage: Record) -> None:
    """Two schedulers may find them at once: the first one's count."""
    key = (stage["job_id"], stage["stage"])
    try:
        columns = await _sample(context, stage)
    except Exception as error:
        if passes(error):
            await put_off.put_off(context.database, *key, error)
            log.warning("columns put off", job=str(key[0]), stage=key[1], error=repr(error))
            return
        log.info("columns not found", job=str(key[0]), stage=key[1], error=repr(error))
        columns = None  # the task that needs the object fails by itself, and says why
    async with context.database.acquire() as connection, connection.transaction():
        await connection.execute(_FOUND, *key, columns)
        await notify_jobs(connection)


async def _sample(context: Context, stage: Record) -> Columns | None:
    indexes = spread(stage["task_count"])
    rows = await context.database.fetch(_INPUTS, stage["job_id"], stage["stage"], indexes)
    return await find_columns(context.aws.s3, [parse_input(row["input"]) for row in rows])
