"""The plan of a stage: its tasks, chunk by chunk, each with the cursor after it in one transaction."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from services.contract.source import number_parts
from services.engine.jobs import notify_jobs
from services.engine.spec import JobSpec
from services.engine.transitions import plan_same_tasks, plan_tasks
from services.inputs.chunk import Chunk
from services.inputs.spec import count_tasks
from services.inputs.split import split_each
from services.platform.database import Connection
from services.platform.settings import Settings

AT_ONCE_MAX = 5_000  # tasks that a submission plans by itself: some 50 ms of its transaction

_LOCK = """
    SELECT s.task_count FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = $2
    WHERE j.job_id = $1 AND j.state = 'running' AND NOT s.planned AND s.plan_cursor IS NOT DISTINCT FROM $3
      AND s.revision = $4
    FOR SHARE OF j FOR UPDATE OF s SKIP LOCKED"""

_SAVE = """
    UPDATE stages SET plan_cursor = $3, planned = $4, task_count = task_count + $5, state = 'running',
        tasks_expected = coalesce(ceil((task_count + $5) / $6::float8), tasks_expected),
        put_off_at = NULL, started_at = coalesce(started_at, now()),
        tasks_at = coalesce(tasks_at, CASE WHEN $5 > 0 THEN now() END)
    WHERE job_id = $1 AND stage = $2"""

_INPUT = "SELECT input FROM tasks WHERE job_id = $1 AND stage = $2 AND index = $3"


@dataclass(frozen=True, slots=True)
class Plan:
    """How far the plan of a stage was when it was read. A retry that has the stage planned again adds a revision."""

    job_id: UUID
    stage: int
    cursor: dict[str, Any] | None
    revision: int


async def lock_plan(connection: Connection, plan: Plan) -> int | None:
    """Lock the plan; returns the stage's number of tasks, or None if the plan is no longer there."""
    found = (plan.job_id, plan.stage, plan.cursor, plan.revision)
    count: int | None = await connection.fetchval(_LOCK, *found)
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


async def save_chunk(connection: Connection, job_id: UUID, stage: int, first: int, chunk: Chunk) -> None:
    """Make the chunk's tasks, from number `first` on, and record it. Needs the lock."""
    if chunk.repeat > 1:
        await plan_same_tasks(connection, job_id, stage, first, chunk.inputs[0], chunk.tasks)
    elif chunk.inputs:
        before = await connection.fetchval(_INPUT, job_id, stage, first - 1) if first else None
        await plan_tasks(connection, job_id, stage, first, number_parts(chunk.inputs, before))
    await save_plan(connection, job_id, stage, chunk.cursor, chunk.done, chunk.tasks, chunk.share)


async def plan_at_once(connection: Connection, job_id: UUID, spec: JobSpec, settings: Settings) -> None:
    """Plan a small job within the transaction that submits it, if its input itself says what its tasks are.

    Then its tasks are dispatched as soon as a scheduler hears of it. All other jobs are planned by schedulers.
    """
    at_once = not spec.is_for_later and len(spec.inputs) == 1 and not spec.reuse
    tasks = count_tasks(spec.inputs) if at_once else None
    if tasks is not None and tasks <= min(AT_ONCE_MAX, settings.ready_tasks_max):
        await save_chunk(connection, job_id, 0, 0, await split_each(None, spec.inputs, None, slots=1))
