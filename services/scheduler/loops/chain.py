"""Chain: plans the tasks of every stage that does not follow the previous one task by task."""

from collections.abc import Awaitable, Callable

from asyncpg import Record

from services.inputs.chunk import Chunk
from services.scheduler import put_off
from services.scheduler.loop import Context
from services.scheduler.planning import items, outputs, reduce, resplit
from services.scheduler.planning.chunks import plan_each, planning, save_chunk

STAGES_AT_ONCE = 16  # of each kind

_WAITING = "SELECT DISTINCT tasks_from FROM stages_to_chain"

# By `tasks_from`: the SQL that finds the stages that can proceed, and the function that plans a chunk of one.
_PLANS: dict[str, tuple[str, Callable[[Context, Record], Awaitable[Chunk | None]]]] = {
    "outputs": (outputs.READY, outputs.plan),
    "resplit": (resplit.READY, resplit.plan),
    "items": (items.READY, items.plan),
    "reduce": (reduce.READY, reduce.plan),
}


async def step(context: Context) -> bool:
    """Plan one more chunk of some stages; True while any stage still waits for tasks."""
    limits = (put_off.PUT_OFF_SECONDS, STAGES_AT_ONCE, context.settings.ready_tasks_max)
    waiting = [row["tasks_from"] for row in await context.database.fetch(_WAITING)]
    ready = [stage for kind in waiting for stage in await context.database.fetch(_PLANS[kind][0], *limits)]
    await plan_each(_plan_chunk(context, stage) for stage in ready)
    return bool(waiting)


async def _plan_chunk(context: Context, stage: Record) -> None:
    key, cursor = (stage["job_id"], stage["stage"]), stage["plan_cursor"]
    async with planning(context, *key, cursor, f"the outputs of stage {key[1] - 1}"):
        _, plan = _PLANS[stage["tasks_from"]]
        if (chunk := await plan(context, stage)) is not None:
            await save_chunk(context, *key, chunk, cursor)
