"""Finish: a stage whose tasks are all terminal ends; after the last comes the merge, then the job's end.

Counters decide, and the decision is repeated under the job's lock, so that it takes effect once.
"""

import time
from collections import deque
from uuid import UUID

import structlog
from asyncpg import Record

from services.contract.source import TaskSource
from services.engine.jobs import end_job, fail_job, notify_jobs
from services.engine.running import fetch_running
from services.engine.transitions import cancel_tasks
from services.platform.database import Connection
from services.scheduler.loop import Context

log = structlog.get_logger()

TASKS_MAX = 5_000  # cancelled at once
ENDING_SECONDS = 0.5  # of a step: the end of other jobs need not wait longer, however many are cancelled, or how huge

# The one with the least to cancel comes first.
_ENDING = """
    SELECT j.job_id, j.state FROM jobs AS j CROSS JOIN LATERAL (
        SELECT coalesce(sum(c.ready + c.queued + c.running), 0) AS tasks FROM stage_counters AS c
        WHERE c.job_id = j.job_id
    ) AS rest
    WHERE j.state IN ('cancelling', 'failing') ORDER BY rest.tasks, j.job_id"""

# How many stages are running, and those of them that may be over. Failures are tolerated up to a number, or up to a
# share of the stage's tasks, which is not known (null) before all of them are planned.
_RUNNING = """
    WITH looked_at AS MATERIALIZED (
        SELECT s.job_id, s.stage, s.planned, s.task_count, s.failed,
            CASE WHEN of.tolerated_percent IS NULL THEN s.tolerated_failures
                WHEN s.planned THEN floor(of.tolerated_percent::numeric * s.task_count / 100) END AS tolerated,
            s.succeeded + s.failed + s.cancelled AS ended,
            coalesce(of.appended_at < now() - of.open_seconds * interval '1 second', false) AS forgotten
        FROM running_stages AS s JOIN stages AS of USING (job_id, stage)
        WHERE of.state = 'running' AND (of.job_id, of.stage) > ($1, $2) AND (of.job_id, of.stage) <= ($3, $4)
    )
    SELECT count(*) AS running, NULL::uuid AS job_id, NULL::smallint AS stage FROM looked_at
    UNION ALL SELECT 0, job_id, stage FROM looked_at
    WHERE failed > tolerated OR (planned OR forgotten) AND ended = task_count"""

# Running stages that are looked at in a second: twenty microseconds each, so that this takes a twentieth of a core.
STAGES_A_SECOND = 2_500

_HOLD = "SELECT FROM jobs WHERE job_id = $1 FOR UPDATE SKIP LOCKED"

_STAGE = """
    SELECT r.job_id, r.stage, r.name, r.planned, r.task_count, r.failed, s.tolerated_percent,
        CASE WHEN s.tolerated_percent IS NULL THEN r.tolerated_failures
            WHEN r.planned THEN floor(s.tolerated_percent::numeric * r.task_count / 100)::bigint END AS tolerated,
        r.succeeded + r.failed + r.cancelled AS ended,
        s.open_seconds, coalesce(s.appended_at < now() - s.open_seconds * interval '1 second', false) AS forgotten,
        (SELECT n.tasks_from FROM stages AS n WHERE n.job_id = $1 AND n.stage = $2 + 1) AS next
    FROM running_stages AS r JOIN stages AS s ON s.job_id = $1 AND s.stage = $2
    WHERE r.job_id = $1 AND r.stage = $2"""

_FIRST_FAILURE = """
    SELECT index, input, error FROM tasks
    WHERE job_id = $1 AND stage = $2 AND state = 'failed' ORDER BY index LIMIT 1"""

# A part that ends inside a record says that the next begins there: this failure is never tolerated.
_TORN = """
    SELECT index, input, error FROM tasks
    WHERE job_id = $1 AND stage = $2 AND state = 'failed' AND error ->> 'type' = 'records_torn'
    ORDER BY index LIMIT 1"""

# Not the number of successes: of an output that was lost, the successor is there, though its task may fail now.
_PLAN_ENDS = """
    UPDATE stages AS s SET planned = true, task_count = (
        SELECT c.ready + c.queued + c.running + c.succeeded + c.failed + c.cancelled
        FROM stage_sums(s.job_id, s.stage) AS c)
    WHERE job_id = $1 AND stage = $2"""


async def step(context: Context) -> bool | float:
    """Look at every running stage and every ending job once; True while there are any, or how long to rest."""
    stages = await fetch_running(context.database, _RUNNING)
    for stage in stages:
        if stage["job_id"] is not None:
            await _end_stage(context, stage["job_id"], stage["stage"])
    ending = deque(await context.database.fetch(_ENDING))
    running, until = sum(stage["running"] for stage in stages), time.monotonic() + ENDING_SECONDS
    if not ending:
        return running / STAGES_A_SECOND if running else False
    while ending:
        job = ending.popleft()
        if not await _end(context, job["job_id"], job["state"]):
            ending.append(job)
        if time.monotonic() >= until:
            break
    return True


def _has_failed(stage: Record) -> bool:
    return stage["tolerated"] is not None and bool(stage["failed"] > stage["tolerated"])


def _is_over(stage: Record) -> bool:
    all_ended = stage["ended"] == stage["task_count"]
    return _has_failed(stage) or bool((stage["planned"] or stage["forgotten"]) and all_ended)


async def _end_stage(context: Context, job_id: UUID, number: int) -> None:
    async with context.database.acquire() as connection, connection.transaction():
        if await connection.fetchrow(_HOLD, job_id) is None:
            return  # someone else has it: the next look finds what is left, and other jobs need not wait
        stage = await connection.fetchrow(_STAGE, job_id, number)
        if stage is None or not _is_over(stage):
            return
        if _has_failed(stage):
            await _fail_stage(connection, stage)
        elif not stage["planned"]:
            await _fail_open_job(connection, stage)
        elif stage["failed"] and (torn := await connection.fetchrow(_TORN, job_id, number)):
            await _fail(connection, stage, f"{_name(torn)}: {torn['error']['message']}")
        else:
            await _finish_stage(connection, stage)


async def _fail_stage(connection: Connection, stage: Record) -> None:
    first = await connection.fetchrow(_FIRST_FAILURE, stage["job_id"], stage["stage"])
    why = f"; the first, {_name(first)}: {(first['error'] or {}).get('message')}" if first else ""
    share = stage["tolerated_percent"]
    of_all = f" ({share:g}% of {stage['task_count']:,})" if share is not None else ""
    failed = "1 task" if stage["failed"] == 1 else f"{stage['failed']:,} tasks"
    await _fail(connection, stage, f"{failed} failed, {stage['tolerated']:,} tolerated{of_all}{why}")


def _name(task: Record) -> str:
    """`task 7`, or with what it works on, `task 7 (s3://photos/cat.png)`."""
    source = TaskSource.of(task["input"])
    return f"task {task['index']}" + (f" ({source})" if source else "")


async def _fail_open_job(connection: Connection, stage: Record) -> None:
    """More items may have been meant to come, so these do not make a whole result."""
    message = (
        f"nothing was appended for {stage['open_seconds']:g} s and nobody closed the job, so it is not known whether "
        "its items are complete: if they are, retry it and close it (retry_job, close_job); else append the others"
    )
    await fail_job(connection, stage["job_id"], {"type": "left_open", "message": message, "stage": stage["stage"]}, 0)
    log.info("job left open", job=str(stage["job_id"]))


async def _fail(connection: Connection, stage: Record, why: str) -> None:
    message = f"stage {stage['name']!r}: {why}"
    error = {"type": "stage_failed", "message": message, "stage": stage["stage"]}
    await fail_job(connection, stage["job_id"], error, stage["stage"])
    log.info("job failing", job=str(stage["job_id"]), error=message)


async def _finish_stage(connection: Connection, stage: Record) -> None:
    """Hand over to the next stage, or to the merge if this is the last stage or the next one needs joined outputs."""
    target = "merging" if stage["next"] in (None, "resplit") else "succeeded"
    await connection.execute(
        "UPDATE stages SET state = $3, finished_at = now() WHERE job_id = $1 AND stage = $2",
        stage["job_id"],
        stage["stage"],
        target,
    )
    if stage["next"] == "successes":
        # Every success has made its successor, so the next stage's tasks are all there now.
        await connection.execute(_PLAN_ENDS, stage["job_id"], stage["stage"] + 1)
    await notify_jobs(connection)
    log.info("stage finished", job=str(stage["job_id"]), stage=stage["stage"], state=target)


async def _end(context: Context, job_id: UUID, state: str) -> bool:
    """Cancel some more tasks of the job; when none is left it ends, and this is True.

    So it is if someone else has the job: other jobs need not wait.
    """
    async with context.database.acquire() as connection, connection.transaction():
        if await connection.fetchrow(_HOLD, job_id) is None:
            return True
        if not await cancel_tasks(connection, job_id, TASKS_MAX):
            return False
        target = "failed" if state == "failing" else "cancelled"
        if await end_job(connection, job_id, source=state, target=target, settings=context.settings):
            log.info("job ended", job=str(job_id), state=target)
        return True
