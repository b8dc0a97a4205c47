"""Chain: plans the tasks of every stage that does not follow the previous one task by task."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.engine.plans import Plan
from services.inputs.chunk import Chunk
from services.scheduler import put_off
from services.scheduler.loop import Context
from services.scheduler.planning import items, outputs, reduce, resplit
from services.scheduler.planning.chunks import planning, save_chunk
from services.scheduler.slots import Slots

STAGES_AT_ONCE = 16  # of each kind

Key = tuple[UUID, int]  # of a stage

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
    waiting = [row["tasks_from"] for row in await context.database.fetch(_WAITING)]
    plans: dict[Key, Coroutine[Any, Any, None]] = {}
    slots: Slots[Key] = context.slots["chain"]
    under_way, free = slots.keys, slots.free(STAGES_AT_ONCE * len(_PLANS))
    for kind in waiting:
        limits = (put_off.PUT_OFF_SECONDS, STAGES_AT_ONCE + len(under_way), context.settings.ready_tasks_max)
        for stage in await context.database.fetch(_PLANS[kind][0], *limits):
            key = (stage["job_id"], stage["stage"])
            if key not in under_way and len(plans) < free:
                plans[key] = _plan_chunk(context, stage)
    await slots.advance(plans)
    return bool(waiting)


async def _plan_chunk(context: Context, stage: Record) -> None:
    plan = Plan(stage["job_id"], stage["stage"], stage["plan_cursor"], stage["revision"])
    async with planning(context, plan, f"the outputs of stage {plan.stage - 1}"):
        _, next_chunk = _PLANS[stage["tasks_from"]]
        if (chunk := await next_chunk(context, stage)) is not None:
            await save_chunk(context, plan, chunk)
