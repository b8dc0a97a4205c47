"""Plan: the input of a job becomes the ready tasks of its first stage, a chunk and its cursor in one transaction.

Planning waits while enough tasks are ready, so that a job costs rows only as it runs.
"""

from typing import Any
from uuid import UUID

from asyncpg import Record
from pydantic import TypeAdapter

from services.engine.places import check_task_inputs
from services.engine.plans import Plan
from services.inputs.reach import Reach, ReachableS3
from services.inputs.spec import Input
from services.inputs.split import split_each, split_on_grid
from services.scheduler import put_off
from services.scheduler.loop import Context
from services.scheduler.planning.chunks import planning, save_chunk
from services.scheduler.planning.reuse import find_reused
from services.scheduler.slots import Slots

JOBS_AT_ONCE = 8
_INPUTS: TypeAdapter[list[Input]] = TypeAdapter(list[Input])

_UNPLANNED = """
    SELECT j.job_id, j.spec -> 'input' AS input, coalesce((j.spec -> 'reuse')::boolean, false) AS reuse, s.task_count,
        s.kind, s.plan_cursor, s.revision, p.slots, s.is_full
    FROM jobs AS j
    CROSS JOIN LATERAL (
        SELECT u.*, is_full(u.job_id, u.stage, $3) AS is_full FROM stages AS u WHERE u.job_id = j.job_id AND u.stage = 0
    ) AS s
    CROSS JOIN LATERAL pool_slots(s.pool) AS p
    WHERE j.state = 'running' AND s.state = 'running' AND NOT s.planned
      AND s.open_seconds IS NULL
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
    ORDER BY s.is_full, s.put_off_at NULLS FIRST, j.priority DESC, s.task_count, j.job_id LIMIT $2"""


async def step(context: Context) -> bool:
    """Plan one more chunk of some jobs that have not enough ready tasks; True while any job is not planned."""
    slots: Slots[UUID] = context.slots["plan"]
    under_way, free = slots.keys, slots.free(JOBS_AT_ONCE)
    limits = (put_off.PUT_OFF_SECONDS, free + len(under_way), context.settings.ready_tasks_max)
    jobs = await context.database.fetch(_UNPLANNED, *limits)
    waiting = [job for job in jobs if not job["is_full"] and job["job_id"] not in under_way]
    await slots.advance({job["job_id"]: _plan_chunk(context, job) for job in waiting[:free]})
    return bool(jobs)


async def _plan_chunk(context: Context, job: Record) -> None:
    job_id, cursor = job["job_id"], job["plan_cursor"]
    sources = job["input"] if isinstance(job["input"], list) else [job["input"]]
    splitting = split_on_grid if job["kind"] == "split" else split_each
    plan = Plan(job_id, 0, cursor, job["revision"])
    async with planning(context, plan, _where(sources, cursor)):
        inputs = _INPUTS.validate_python(sources, extra="ignore")
        s3 = ReachableS3(context.aws.s3, Reach(context.settings), inputs[cursor["input"] if cursor else 0])
        chunk = await splitting(s3, inputs, cursor, job["slots"])
        await check_task_inputs(context.database, job_id, chunk.inputs, context.settings)
        reused = await find_reused(context, job_id, job["task_count"], chunk) if job["reuse"] else None
        await save_chunk(context, plan, chunk, reused)


def _where(sources: list[dict[str, Any]], cursor: dict[str, Any] | None) -> str | None:
    source = sources[cursor["input"] if cursor else 0]
    return source.get("uri") or source.get("prefix")
