"""Outputs that are lost between stages: gone from S3, or no longer the bytes that were written.

Whoever could not read one reports it: a task by its worker, a plan or a merge by its scheduler. The attempt that made
it is named by its key in S3. Its task runs again, and a task that could not read it waits for the new one; so does the
first task's own input, if that is lost too. This is bounded: a task whose output is lost again and again is not run
for ever. Everything happens under the job's lock, so a loss that many report is repaired once.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.layout import SCHEDULER
from services.engine import transitions
from services.engine.attempt import AttemptReport, LostOutput
from services.engine.jobs import notify_jobs
from services.platform.database import Connection, Database

RERUNS_MAX = 3  # of a task, or of what schedulers make of a stage

_WAIT_SECONDS = 3600.0  # after that, a task looks for its input by itself, though nobody has told it to go on
_UPGRADE_SECONDS = 30.0  # until the next look for workers of the release before

_HOLD_JOB = "SELECT state FROM jobs WHERE job_id = $1 FOR UPDATE"

# The reader's only running attempt, and when it began.
_HELD = """
    SELECT started_at FROM tasks WHERE job_id = $1 AND stage = $2 AND index = $3 AND attempt = $4 AND worker_id = $5
      AND state = 'running' AND backup_worker_id IS NULL"""

# The first that has been lost too often before.
_LOST_TOO_OFTEN = """
    SELECT l.uri, l.stage, l.index, count(DISTINCT o.attempt) AS times
    FROM json_to_recordset($2::json) AS l (stage smallint, index integer, attempt smallint, uri text)
    JOIN lost_outputs AS o ON o.job_id = $1 AND o.stage = l.stage AND o.index = l.index
    WHERE o.counted AND o.attempt < l.attempt
    GROUP BY l.stage, l.index, l.attempt, l.uri HAVING count(DISTINCT o.attempt) >= $3
    ORDER BY l.stage, l.index LIMIT 1"""

_NOTE = """
    INSERT INTO lost_outputs (job_id, stage, index, attempt, reader_stage, reader_index, uri, waits)
    SELECT DISTINCT ON (stage, index, attempt) $1, stage, index, attempt, $2, $3, uri, $4
    FROM json_to_recordset($5::json) AS l (stage smallint, index integer, attempt smallint, uri text)
    ON CONFLICT (job_id, stage, index, attempt, reader_stage, reader_index) DO UPDATE SET waits = excluded.waits"""

# What schedulers make has no attempts: its losses are counted. A reader that began before the outputs were last joined
# has only seen the loss that this has repaired. ($3, $4: the reader, $5: when it began.)
_NUMBER = """
    SELECT l.stage, l.index, l.uri, CASE
        WHEN l.index >= 0 THEN l.attempt
        WHEN l.stage = $3 THEN 1 + coalesce((
            SELECT max(o.attempt) FROM lost_outputs AS o WHERE o.job_id = $1 AND o.stage = l.stage AND o.index = l.index
                AND o.reader_stage = $3 AND o.reader_index = $4), 0)
        ELSE greatest(1, (s.state = 'succeeded' AND s.finished_at <= $5)::integer + coalesce((
            SELECT max(o.attempt) FROM lost_outputs AS o WHERE o.job_id = $1 AND o.stage = l.stage AND o.index = l.index
            ), 0)) END AS attempt
    FROM json_to_recordset($2::json) AS l (stage smallint, index integer, attempt smallint, uri text)
    JOIN stages AS s ON s.job_id = $1 AND s.stage = l.stage"""

# Joined outputs are joined again, if that is not under way.
_JOIN_AGAIN = """
    UPDATE stages AS s SET state = 'merging', finished_at = now()
    FROM json_to_recordset($3::json) AS l (stage smallint, index integer, attempt smallint)
    WHERE s.job_id = $1 AND s.stage = l.stage AND l.index < 0 AND l.stage < $2 AND s.state = 'succeeded'
      AND NOT EXISTS (SELECT FROM lost_outputs AS o WHERE o.job_id = $1 AND o.stage = l.stage AND o.index = l.index
        AND o.attempt = l.attempt)"""

# A worker of a release that can't complete what runs again: where each success makes a task, that is there already.
_OLD_WORKER = """
    SELECT EXISTS (
        SELECT FROM json_to_recordset($2::json) AS l (stage smallint)
        JOIN stages AS s ON s.job_id = $1 AND s.stage = l.stage JOIN workers AS w ON w.pool = s.pool
        WHERE s.chains AND w.release IS NULL AND w.state IN ('active', 'draining'))"""


async def lose_inputs(database: Database, worker_id: UUID, report: AttemptReport) -> None:
    """End an attempt that could not read all of its input (`report.lost`); what is lost is made again. Safe to repeat.

    If another attempt of the task runs, it may have read it, and the task goes on with that.
    """
    key = (report.job_id, report.stage, report.index)
    async with database.acquire() as connection, connection.transaction():
        state = await connection.fetchval(_HOLD_JOB, report.job_id)
        started_at = await connection.fetchval(_HELD, *key, report.attempt, worker_id)
        if started_at is None or state not in ("running", "paused"):
            return
        seconds = _UPGRADE_SECONDS
        if not await connection.fetchval(_OLD_WORKER, report.job_id, report.lost):
            seconds, reader = _WAIT_SECONDS, (report.stage, report.index)
            if why := await _make_again(connection, report.job_id, reader, started_at, report.lost):
                error = {"type": "input_lost", "message": why}
                report = replace(report, outcome="failed", error=error, retryable=False)
        await transitions.complete(connection, worker_id, [report], [])
        await transitions.wait_for_input(connection, *key, report.attempt, seconds)
        await notify_jobs(connection)


async def lose_outputs(
    connection: Connection, job_id: UUID, reader: tuple[int, int], lost: Sequence[LostOutput]
) -> str | None:
    """Have outputs made again that a scheduler could not read for `reader`: a task that waits, or (with the index
    SCHEDULER) the plan or the merge of a stage. Returns why not, if they have been lost too often.

    Joins a transaction that holds the job, which is running.
    """
    now = await connection.fetchval("SELECT now()")
    why = await _make_again(connection, job_id, reader, now, lost)
    await notify_jobs(connection)
    return why


async def _make_again(
    connection: Connection, job_id: UUID, reader: tuple[int, int], began_at: datetime, lost: Sequence[LostOutput]
) -> str | None:
    numbered = [LostOutput(**row) for row in await connection.fetch(_NUMBER, job_id, lost, *reader, began_at)]
    often = await connection.fetchrow(_LOST_TOO_OFTEN, job_id, numbered, RERUNS_MAX)
    if often is not None:
        maker = name_maker(often["stage"], often["index"])
        return (
            f"{often['uri']} is gone or damaged again, after {maker} has made it {often['times'] + 1} times: "
            "find out what removes or changes it (a lifecycle rule, another program), then retry the job"
        )
    stage, index = reader
    await connection.execute(_JOIN_AGAIN, job_id, stage, numbered)
    await connection.execute(_NOTE, job_id, stage, index, index != SCHEDULER, numbered)
    await transitions.run_again(connection, job_id, _name_reader(stage, index), numbered)
    return None


def name_maker(stage: int, index: int) -> str:
    return f"stage {stage}" if index == SCHEDULER else f"task {stage}/{index}"


def _name_reader(stage: int, index: int) -> str:
    return f"the plan or the merge of stage {stage}" if index == SCHEDULER else f"task {stage}/{index}"


# Readers for which all that they wait for is over, with the task that has made, or has not made, their input again.
_RENEWABLE = """
    WITH waiting AS MATERIALIZED (
        SELECT o.job_id, o.reader_stage AS stage, o.reader_index AS index,
            bool_and(CASE WHEN o.index >= 0 THEN p.state IN ('succeeded', 'failed', 'cancelled')
                ELSE o.stage = o.reader_stage OR m.state = 'succeeded' END) AS over,
            max(o.stage) AS maker_stage, max(o.index) AS maker_index,
            max(o.index) FILTER (WHERE p.state IN ('failed', 'cancelled')) AS failed_index
        FROM lost_outputs AS o JOIN jobs AS j ON j.job_id = o.job_id AND j.state = 'running'
        JOIN stages AS m ON m.job_id = o.job_id AND m.stage = o.stage
        LEFT JOIN tasks AS p ON p.job_id = o.job_id AND p.stage = o.stage AND p.index = o.index
        WHERE o.waits GROUP BY o.job_id, o.reader_stage, o.reader_index
    )
    SELECT w.job_id, w.stage, w.index, w.maker_stage, w.maker_index, w.failed_index, s.tasks_from, t.input,
        p.attempt AS maker_attempt, p.output AS maker_output, p.error AS maker_error
    FROM waiting AS w JOIN stages AS s ON s.job_id = w.job_id AND s.stage = w.stage
    JOIN tasks AS t ON t.job_id = w.job_id AND t.stage = w.stage AND t.index = w.index
    LEFT JOIN tasks AS p ON p.job_id = w.job_id AND p.stage = w.maker_stage
        AND p.index = coalesce(w.failed_index, w.maker_index)
    WHERE w.over ORDER BY w.job_id, w.stage, w.index LIMIT $1"""

_HOLD_RUNNING = "SELECT FROM jobs WHERE job_id = $1 AND state = 'running' FOR UPDATE"

_RENEWED = """
    UPDATE lost_outputs SET waits = false
    WHERE job_id = $1 AND reader_stage = $2 AND reader_index = $3 AND waits"""

# A merge that waits for a task of an earlier stage.
_MERGE_AGAIN = """
    UPDATE stages AS s SET state = 'running' FROM jobs AS j
    WHERE j.job_id = s.job_id AND j.state = 'running' AND s.state = 'waiting' AND s.planned AND NOT EXISTS (
        SELECT FROM stages AS e WHERE e.job_id = s.job_id AND e.stage < s.stage AND e.state <> 'succeeded')"""


async def find_renewable(database: Database, readers_max: int) -> list[Record]:
    """Tasks that wait, and can go on."""
    rows: list[Record] = await database.fetch(_RENEWABLE, readers_max)
    return rows


async def end_wait(
    database: Database, reader: Record, *, input: dict[str, Any] | None = None, failure: str | None = None
) -> None:
    """Let a task that waits go on with this input, or fail it. Nothing happens if its job does not run."""
    key = (reader["job_id"], reader["stage"], reader["index"])
    async with database.acquire() as connection, connection.transaction():
        if await connection.fetchrow(_HOLD_RUNNING, reader["job_id"]) is None:
            return
        if failure is None:
            await transitions.go_on(connection, *key, reader["input"], input)
        else:
            await transitions.give_up(connection, *key, {"type": "input_lost", "message": failure})
        await connection.execute(_RENEWED, *key)
        await notify_jobs(connection)


async def lose_again(database: Database, reader: Record, lost: Sequence[LostOutput]) -> None:
    """What was made again for a task that waits is lost, too."""
    async with database.acquire() as connection, connection.transaction():
        if await connection.fetchrow(_HOLD_RUNNING, reader["job_id"]) is None:
            return
        why = await lose_outputs(connection, reader["job_id"], (reader["stage"], reader["index"]), lost)
    if why is not None:
        await end_wait(database, reader, failure=why)


async def resume_merges(database: Database) -> None:
    """Merges that wait for tasks of earlier stages may go on."""
    await database.execute(_MERGE_AGAIN)
