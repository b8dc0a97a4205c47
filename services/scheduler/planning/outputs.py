"""After a barrier: task i works on output i of the stage before, whatever failed beside it."""

from asyncpg import Record

from services.engine.plans import Plan, lock_plan, save_plan
from services.engine.transitions import plan_outputs
from services.scheduler.loop import Context

TASKS_PER_CHUNK = 5_000

READY = """
    SELECT job_id, stage, tasks_from, plan_cursor, revision FROM stages_to_chain
    WHERE tasks_from = 'outputs' AND before_state = 'succeeded'
      AND (put_off_at IS NULL OR put_off_at <= now() - $1 * interval '1 second')
      AND NOT is_full(job_id, stage, $3)
    ORDER BY put_off_at NULLS FIRST, priority DESC, task_count, job_id, stage LIMIT $2"""


async def plan(context: Context, stage: Record) -> None:
    """Make the next tasks; their inputs are in the database, so that one statement does it."""
    key, cursor = (stage["job_id"], stage["stage"]), stage["plan_cursor"]
    after = cursor["after"] if cursor else -1
    async with context.database.acquire() as connection, connection.transaction():
        if await lock_plan(connection, Plan(*key, cursor, stage["revision"])) is None:
            return
        count, last = await plan_outputs(connection, *key, after, TASKS_PER_CHUNK)
        done = count < TASKS_PER_CHUNK
        await save_plan(connection, *key, {"after": after if last is None else last}, done, count)
