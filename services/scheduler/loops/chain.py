"""Chain: the tasks of every stage that does not just follow its predecessor task by task."""

from collections.abc import Awaitable, Callable

from asyncpg import Record

from services.engine.pools import POOL_SLOTS
from services.engine.transitions import plan_outputs
from services.inputs.chunk import Chunk
from services.scheduler import put_off
from services.scheduler.loop import Context
from services.scheduler.planning import items, reduce, resplit
from services.scheduler.planning.chunks import lock_plan, plan_each, planning, save_chunk, save_plan

STAGES_AT_ONCE = 16
OUTPUTS_PER_CHUNK = 10_000

_PLANS: dict[str, Callable[[Context, Record], Awaitable[Chunk | None]]] = {
    "items": items.plan,
    "resplit": resplit.plan,
    "reduce": reduce.plan,
}

_WAITING = """
    SELECT EXISTS (
        SELECT FROM jobs AS j JOIN stages AS s USING (job_id)
        WHERE j.state = 'running' AND s.stage > 0 AND NOT s.planned AND s.tasks_from <> 'successes'
    )"""

# Stages that can get on: the one before has ended; or the next task of a fan-out has; or a level of a reduce.
_READY = f"""
    SELECT s.job_id, s.stage, s.kind, s.tasks_from, s.plan_cursor, s.resplit, s.fan_in, {POOL_SLOTS} AS slots,
        b.state AS before_state, b.planned AS before_planned, b.result AS before_result
    FROM jobs AS j JOIN stages AS s USING (job_id) JOIN stages AS b ON b.job_id = s.job_id AND b.stage = s.stage - 1
    WHERE j.state = 'running' AND NOT s.planned AND s.tasks_from <> 'successes' AND {put_off.DUE}
      AND (b.state = 'succeeded' OR s.tasks_from = 'items' AND NOT s.barrier)
      AND CASE s.tasks_from
        WHEN 'items' THEN coalesce((
            SELECT t.state = 'succeeded' AND (b.planned OR t.index = coalesce((s.plan_cursor ->> 'index')::integer, 0))
            FROM tasks AS t WHERE t.job_id = s.job_id AND t.stage = s.stage - 1
              AND t.index >= coalesce((s.plan_cursor ->> 'index')::integer, 0)
            ORDER BY t.index LIMIT 1
        ), b.planned) OR b.state = 'succeeded'
        WHEN 'reduce' THEN s.plan_cursor IS NULL OR (s.plan_cursor ->> 'open')::boolean OR s.task_count = (
            SELECT sum(c.succeeded) FROM stage_counters AS c WHERE c.job_id = s.job_id AND c.stage = s.stage
        )
        ELSE true END
    ORDER BY {put_off.TURN} LIMIT $2"""


async def step(context: Context) -> bool:
    """Plan one more chunk of some stages; True while any waits for its tasks."""
    if not await context.database.fetchval(_WAITING):
        return False
    stages = await context.database.fetch(_READY, put_off.PUT_OFF_SECONDS, STAGES_AT_ONCE)
    await plan_each(_plan_chunk(context, stage) for stage in stages)
    return True


async def _plan_chunk(context: Context, stage: Record) -> None:
    key, cursor = (stage["job_id"], stage["stage"]), stage["plan_cursor"]
    async with planning(context, *key, cursor, f"the outputs of stage {key[1] - 1}"):
        if stage["tasks_from"] == "outputs":
            await _plan_outputs(context, stage)
        elif (chunk := await _PLANS[stage["tasks_from"]](context, stage)) is not None:
            await save_chunk(context, *key, chunk, cursor)


async def _plan_outputs(context: Context, stage: Record) -> None:
    """After a barrier: task i works on output i, whatever failed beside it."""
    key, cursor = (stage["job_id"], stage["stage"]), stage["plan_cursor"]
    after = cursor["after"] if cursor else -1
    async with context.database.acquire() as connection, connection.transaction():
        if await lock_plan(connection, *key, cursor) is None:
            return
        count, last = await plan_outputs(connection, *key, after, OUTPUTS_PER_CHUNK)
        done = count < OUTPUTS_PER_CHUNK
        await save_plan(connection, *key, {"after": after if last is None else last}, done, count)
