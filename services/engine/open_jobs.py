"""Open jobs: their items are appended while they run, one numbered chunk at a time, until somebody closes them.

The transaction that makes a chunk's tasks also counts the chunk in `stages.plan_cursor`, so a chunk that is sent again
appends nothing more. A job that nobody closes does not stay for ever: it fails when all its tasks have ended and
nothing was appended for `stages.open_seconds` (services/scheduler/loops/finish.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.task_input import Item
from services.engine.errors import Conflict, NotFound, SpecError
from services.engine.jobs import notify_jobs
from services.engine.transitions import cancel_some, plan_tasks
from services.inputs.chunk import TASKS_MAX
from services.platform.database import ENDS_CHANNEL, Connection, notify

OPEN_STATES = ("scheduled", "running", "paused")  # of a job that takes more items

# The order of locks is that of planning: the job, then its stage.
_HOLD = """
    SELECT j.state, j.deleted_at, s.planned, s.open_seconds, s.task_count,
        coalesce((s.plan_cursor ->> 'chunks')::integer, 0) AS chunks, is_full(s.job_id, s.stage, $2) AS is_full
    FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = 0
    WHERE j.job_id = $1 FOR SHARE OF j FOR UPDATE OF s"""

_APPEND = """
    UPDATE stages SET plan_cursor = jsonb_build_object('chunks', $2::integer), task_count = task_count + $3,
        appended_at = now(), tasks_at = coalesce(tasks_at, CASE WHEN $3 > 0 THEN now() END)
    WHERE job_id = $1 AND stage = 0"""

_CLOSE = "UPDATE stages SET planned = true WHERE job_id = $1 AND stage = 0"

_HOLD_ITEMS = """
    SELECT s.open_seconds, s.task_count FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = 0
    WHERE j.job_id = $1 FOR SHARE OF j"""

_CANCELLED = """
    SELECT index FROM tasks WHERE job_id = $1 AND stage = 0 AND index = ANY($2) AND state = 'cancelled'
    ORDER BY index"""


class EnoughItems(Exception):
    """The job has as many tasks that wait as it may; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Appended:
    """How many chunks and items a job has."""

    chunks: int
    items: int


async def append_items(
    connection: Connection, job_id: UUID, chunk: int, items: Sequence[Any], ready_tasks_max: int
) -> Appended:
    """Make a task of each item of the next chunk, inside the caller's transaction; nothing if that chunk is there.

    Raises NotFound, Conflict, SpecError, EnoughItems.
    """
    job = await _hold(connection, job_id, ready_tasks_max)
    if chunk < job["chunks"]:
        return Appended(job["chunks"], job["task_count"])
    _check_open(job)
    if chunk > job["chunks"]:
        raise Conflict(f"chunk {chunk} can't come yet, as chunks come in order: send chunk {job['chunks']} first")
    total = job["task_count"] + len(items)
    if total > TASKS_MAX:
        raise SpecError("items", len(items), f"a job has at most {TASKS_MAX} tasks, and this one would have {total}")
    if job["is_full"] and items:
        raise EnoughItems("the job has as many tasks that wait as it may; append the next items when some have started")
    if items:
        await plan_tasks(connection, job_id, 0, job["task_count"], [Item(item).to_json() for item in items])
    await connection.execute(_APPEND, job_id, chunk + 1, len(items))
    await notify_jobs(connection)
    return Appended(chunk + 1, total)


async def close_job(connection: Connection, job_id: UUID) -> None:
    """Say that no more items come: the job ends with its tasks. Safe to repeat. Raises NotFound, Conflict."""
    job = await _hold(connection, job_id, 0)
    if job["planned"]:
        return
    _check_open(job)
    await connection.execute(_CLOSE, job_id)
    await notify_jobs(connection)


async def cancel_items(connection: Connection, job_id: UUID, items: Sequence[int]) -> list[int]:
    """End these items, by their numbers, unless their tasks of the first stage have ended; inside a transaction.

    Returns those that are cancelled, now or before. Raises NotFound, Conflict.
    """
    job = await connection.fetchrow(_HOLD_ITEMS, job_id)
    if job is None:
        raise NotFound(f"no job has the id {job_id}")
    if job["open_seconds"] is None:
        raise Conflict(
            "single items can be cancelled only of a job whose input is of type stream, where each stands for itself: "
            "cancel this job as a whole"
        )
    if items and max(items) >= job["task_count"]:
        raise NotFound(f"the job has no item {max(items)}: it has {job['task_count']} so far, from 0")
    while not await cancel_some(connection, job_id, 0, items):
        pass
    await notify_jobs(connection)
    await notify(connection, ENDS_CHANNEL, str(job_id))
    return [row["index"] for row in await connection.fetch(_CANCELLED, job_id, items)]


async def _hold(connection: Connection, job_id: UUID, ready_tasks_max: int) -> Record:
    """The open job, or the one that was open, whose stage is locked. Raises NotFound, Conflict."""
    job = await connection.fetchrow(_HOLD, job_id, ready_tasks_max)
    if job is None:
        raise NotFound(f"no job has the id {job_id}")
    if job["open_seconds"] is None:
        raise Conflict("this job has all its items already: only a job whose input is of type stream takes more")
    return job


def _check_open(job: Record) -> None:
    if job["planned"]:
        raise Conflict("this job is closed, so it takes no more items: submit another one")
    if job["state"] not in OPEN_STATES or job["deleted_at"] is not None:
        raise Conflict(f"a job that is {job['state']} takes no more items: submit another one, or retry this one")
