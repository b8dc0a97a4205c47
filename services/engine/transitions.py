"""The life of a task: every transition of the task table, each one statement that also keeps the stage's counters.

    ready → queued → running → succeeded | failed | cancelled
      ↑________________|           |    (retry with backoff, worker lost, bundle withdrawn)
      ↑____________________________|    (its output is lost: services/engine/lost_outputs.py)

Postgres decides: a transition happens only from the state named in its WHERE, so running it twice, late, or on two
nodes at once changes nothing more. Each queued task is in one unclaimed bundle and each running task in one bundle of
its worker, so whatever a worker or a message loses is found again through `bundles`, never by scanning tasks.

A running task may have a backup attempt on a second worker: the columns `backup_…` of the task, and a bundle of its
own. The two race, and the fence lets one succeed: then `backup_…` tell of the loser. If one of them ends otherwise, the
task goes on with the other, and `attempt`, `worker_id`, `started_at` tell of that one.

All functions take a connection or a pool; a statement is atomic by itself and can join a caller's transaction. All
lock in one order, so that no two wait for each other: jobs, bundles (by id, or those alone that nobody has locked),
tasks by key, counters by key.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any
from uuid import UUID

from services.contract.message import Message
from services.contract.resources import Needs
from services.contract.source import TaskSource
from services.contract.task_input import parse_input
from services.engine.attempt import AttemptReport, ClaimedTask, LostOutput
from services.engine.months import ALL, months_of
from services.platform.database import LONG_SECONDS, TASKS_CHANNEL, Connection, Database

# Shards of stage_counters (column `slot`): the scheduler uses 0, the column's default; workers use the ones after it.
_WORKER_SHARDS = 63


def _shard(worker_id: UUID) -> int:
    return 1 + worker_id.int % _WORKER_SHARDS


# plan: a splitter's inputs become ready tasks. The caller saves its cursor in the same transaction.
_PLAN = """
    WITH planned AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input, attempt)
        SELECT $1, $2, $3 + ordinality - 1, 'ready', now(), input,
            coalesce((SELECT attempt_base FROM stages WHERE job_id = $1 AND stage = $2), 0)
        FROM unnest($4::jsonb[]) WITH ORDINALITY AS part (input, ordinality)
        RETURNING job_id, stage
    )
    INSERT INTO stage_counters AS c (job_id, stage, ready)
    SELECT job_id, stage, count(*) FROM planned GROUP BY job_id, stage
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready"""

_PLAN_SAME = """
    WITH planned AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input, attempt)
        SELECT $1, $2, index, 'ready', now(), $4,
            coalesce((SELECT attempt_base FROM stages WHERE job_id = $1 AND stage = $2), 0)
        FROM generate_series($3::integer, $3 + $5::integer - 1) AS index
        RETURNING job_id, stage
    )
    INSERT INTO stage_counters AS c (job_id, stage, ready)
    SELECT job_id, stage, count(*) FROM planned GROUP BY job_id, stage
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready"""


_PLAN_NUMBERED = """
    WITH planned AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input)
        SELECT $1, $2, index, 'ready', now(), input
        FROM unnest($3::integer[], $4::jsonb[]) AS part (index, input)
        RETURNING job_id, stage
    )
    INSERT INTO stage_counters AS c (job_id, stage, ready)
    SELECT job_id, stage, count(*) FROM planned GROUP BY job_id, stage
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready"""


async def plan_tasks(connection: Connection, job_id: UUID, stage: int, first: int, inputs: Sequence[Any]) -> None:
    """Insert ready tasks `first, first + 1, …` with these inputs."""
    await connection.execute(_PLAN, job_id, stage, first, inputs)


async def plan_same_tasks(
    connection: Connection, job_id: UUID, stage: int, first: int, task_input: Any, count: int
) -> None:
    """Insert `count` ready tasks that share one input and differ by their index."""
    await connection.execute(_PLAN_SAME, job_id, stage, first, task_input, count)


async def plan_numbered_tasks(connection: Connection, job_id: UUID, stage: int, inputs: Mapping[int, Any]) -> None:
    """Insert ready tasks with these inputs, by their indexes."""
    await connection.execute(_PLAN_NUMBERED, job_id, stage, list(inputs), list(inputs.values()))


# plan after a barrier: does for a whole ended stage what `complete` does for a single success.
_PLAN_OUTPUTS = """
    WITH planned AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input, attempt)
        SELECT job_id, stage + 1, index, 'ready', now(), successor_input(output, source_of(input)),
            (SELECT attempt_base FROM stages WHERE job_id = $1 AND stage = $2)
        FROM tasks WHERE job_id = $1 AND stage = $2 - 1 AND index > $3 AND state = 'succeeded'
        ORDER BY index LIMIT $4
        RETURNING job_id, stage, index
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready)
        SELECT job_id, stage, count(*) FROM planned GROUP BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready
    )
    SELECT count(*) AS count, max(index) AS last FROM planned"""


async def plan_outputs(
    connection: Connection, job_id: UUID, stage: int, after: int, tasks_max: int
) -> tuple[int, int | None]:
    """Insert ready tasks that work on the previous stage's outputs with an index greater than `after`.

    Returns their number and the last index.
    """
    ((count, last),) = await connection.fetch(_PLAN_OUTPUTS, job_id, stage, after, tasks_max)
    return count, last


# dispatch: ready → queued, in bundles of neighbouring tasks. FOR SHARE on the job orders it against pause and cancel.
# Second tries come first: a job that can't succeed then fails early, and a job's end does not wait for them.
# A task that has lost a worker gets its own bundle: if it kills its workers, its neighbours must not fail with it.
# Another worker tries it, if there is one (`avoid`). After a second loss it is a suspect. A worker runs one suspect at
# a time, so it can't take other tasks down with it.
# What is in flight is counted here, under the caller's lock of the pool: a stage's `running_max` holds whoever queues.
_DISPATCH = """
    WITH job AS (
        SELECT job_id FROM jobs WHERE job_id = $1 AND state = 'running' FOR SHARE
    ), room AS MATERIALIZED (
        SELECT CASE WHEN $7::integer IS NULL THEN $3 ELSE least($3, greatest(0, $7 - (
            SELECT c.queued + c.running FROM stage_sums($1, $2::smallint) AS c))) END AS tasks
    ), again AS MATERIALIZED (
        SELECT job_id, stage, index FROM tasks
        WHERE job_id = $1 AND EXISTS (SELECT FROM job) AND stage = $2 AND ready_at <= now() - $10 * interval '1 second'
          AND (failures > 0 OR losses > 0)
        ORDER BY ready_at LIMIT (SELECT tasks FROM room) FOR UPDATE SKIP LOCKED
    ), fresh AS MATERIALIZED (
        SELECT job_id, stage, index FROM tasks
        WHERE job_id = $1 AND EXISTS (SELECT FROM job) AND stage = $2 AND ready_at <= now() - $10 * interval '1 second'
          AND failures = 0 AND losses = 0
        ORDER BY ready_at, index LIMIT (SELECT tasks FROM room) - (SELECT count(*) FROM again)
        FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE tasks AS t SET state = 'queued', ready_at = NULL, queued_at = now()
        FROM (TABLE again UNION ALL TABLE fresh) AS p
        WHERE t.job_id = p.job_id AND t.stage = p.stage AND t.index = p.index
          AND t.job_id >= ANY($8) AND t.job_id < ANY($9)
        RETURNING t.job_id, t.stage, t.index, t.losses > 0 AS alone, t.losses >= 2 AS suspect,
            CASE WHEN t.losses > 0 AND EXISTS (
                SELECT FROM workers AS w WHERE w.pool = $5 AND w.state = 'active' AND w.worker_id <> t.worker_id
            ) THEN t.worker_id END AS avoid
    ), islands AS (
        SELECT index, alone, suspect, avoid, index - row_number() OVER (PARTITION BY alone ORDER BY index) AS island
        FROM moved
    ), ranked AS (
        SELECT index, alone, suspect, avoid, island, (row_number() OVER (PARTITION BY alone, island ORDER BY index) - 1)
            / CASE WHEN alone THEN 1 ELSE $4 END AS chunk FROM islands
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready, queued)
        SELECT job_id, stage, -count(*), count(*) FROM moved GROUP BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET
            ready = c.ready + excluded.ready, queued = c.queued + excluded.queued
    )
    INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at, suspect, avoid, needs)
    SELECT gen_random_uuid(), $5, $1, $2, min(index), count(*), now() + least($6, (
            SELECT s.next_pool_after_seconds FROM stages AS s
            WHERE s.job_id = $1 AND s.stage = $2 AND s.pools[cardinality(s.pools)] <> $5
        )) * interval '1 second', bool_or(suspect),
        (array_agg(avoid))[1], (SELECT s.needs FROM stages AS s WHERE s.job_id = $1 AND s.stage = $2)
    FROM ranked GROUP BY alone, island, chunk
    RETURNING bundle_id, job_id, stage, first, count, suspect, avoid, needs,
        (SELECT s.revision FROM stages AS s WHERE s.job_id = $1 AND s.stage = $2) AS revision"""


# A stage for several pools is in several windows, each with a lock of its own: one of them is filled at a time.
_TRY_STAGE = "SELECT pg_try_advisory_xact_lock(hashtextextended('dispatch ' || $1::text, $2::bigint))"


def _message(bundle: Any) -> Message:
    """That of a bundle's row."""
    return Message(**bundle) if bundle["needs"] is None else Message(**{**bundle, "needs": Needs.of(bundle["needs"])})


async def dispatch(
    connection: Connection,
    job_id: UUID,
    stage: int,
    *,
    pool: str,
    tasks_max: int,
    bundle_tasks_max: int,
    resend_seconds: float,
    running_max: int | None = None,
    due_seconds: float = 0.0,
    shared: bool = False,
) -> list[Message]:
    """Queue up to `tasks_max` ready tasks of a running job. Send the messages after the commit.

    With `running_max`, no more tasks of the stage are then queued or running; the caller holds the pool's lock. The
    tasks have been due for `due_seconds`. A stage that is `shared` by several pools gives nothing while another
    transaction queues tasks of it.

    A crash before they are sent costs `resend_seconds`: after that, `resend` offers the bundles again.
    """
    if shared and not await connection.fetchval(_TRY_STAGE, str(job_id), stage):
        return []
    rest = (tasks_max, bundle_tasks_max, pool, resend_seconds, running_max)
    rows = await connection.fetch(_DISPATCH, job_id, stage, *rest, *months_of([job_id]), due_seconds)
    return [_message(row) for row in rows]


# resend: an unclaimed bundle whose message may be lost is offered again, each time after a longer wait. The message of
# a bundle that a worker has put off does not count as lost. By then any worker will do: nobody else has taken it.
# If its pool has had its time, it is offered in the stage's next one that is not paused, and whose nodes have what it
# asks for as far as there are any. Workers of the pool before may still claim it.
_RESEND = """
    UPDATE bundles AS b SET
        sends = least(b.sends + 1, 32767), avoid = NULL, pool = coalesce(due.next_pool, b.pool),
        queued_at = CASE WHEN due.next_pool IS NULL THEN b.queued_at ELSE now() END,
        send_at = now() + least($1 * 2 ^ greatest(0, least(b.sends - b.put_off, 6)),
            CASE WHEN due.last_pool <> coalesce(due.next_pool, b.pool) THEN due.next_pool_after_seconds END)
            * interval '1 second'
    FROM (
        SELECT d.bundle_id, s.revision, s.pools[cardinality(s.pools)] AS last_pool, s.next_pool_after_seconds,
            (SELECT n.pool
                FROM unnest(s.pools) WITH ORDINALITY AS n (pool, place) JOIN pools AS p ON p.name = n.pool,
                    LATERAL (SELECT n.place - array_position(s.pools, d.pool) AS later) AS turn
                WHERE turn.later > 0 AND NOT p.paused
                  AND d.queued_at <= now() - turn.later * s.next_pool_after_seconds * interval '1 second'
                  AND (d.needs IS NULL
                    OR NOT EXISTS (SELECT FROM workers AS w WHERE w.pool = n.pool AND w.state = 'active')
                    OR EXISTS (SELECT FROM workers AS w WHERE w.pool = n.pool AND w.state = 'active'
                        AND node_holds(w.cpus, w.memory, w.gpus, w.disk, d.needs)))
                ORDER BY n.place LIMIT 1) AS next_pool
        FROM (
            SELECT bundle_id, job_id, stage, pool, queued_at, needs FROM bundles
            WHERE worker_id IS NULL AND send_at <= now()
            ORDER BY send_at LIMIT $2 FOR UPDATE SKIP LOCKED
        ) AS d LEFT JOIN stages AS s ON s.job_id = d.job_id AND s.stage = d.stage
    ) AS due
    WHERE b.bundle_id = due.bundle_id
    RETURNING b.pool, b.bundle_id, b.job_id, b.stage, b.first, b.count, b.backup_of, b.suspect, b.needs,
        coalesce(due.revision, 0) AS revision"""


async def resend(
    connection: Connection | Database, resend_seconds: float, bundles_max: int
) -> list[tuple[str, Message]]:
    """Mark bundles as offered again; returns their messages and pools."""
    rows = await connection.fetch(_RESEND, resend_seconds, bundles_max)
    return [(row["pool"], _message({k: v for k, v in row.items() if k != "pool"})) for row in rows]


# The first time at once; while the queue is away, ever more slowly, so that a minute after its return all are offered.
_MARK_UNSENT = """
    UPDATE bundles SET send_at = now()
        + least(60, 2 ^ least(sends - 1, 6) - 1) * (0.5 + random() / 2) * interval '1 second'
    WHERE bundle_id = ANY($1::uuid[]) AND worker_id IS NULL"""


async def mark_unsent(connection: Connection | Database, bundle_ids: Sequence[UUID]) -> None:
    """SQS did not take the messages of these bundles: `resend` offers them again soon."""
    await connection.execute(_MARK_UNSENT, bundle_ids)


# claim: queued → running. Only the first claim of a bundle finds it unclaimed; attempt + 1 fences every earlier one.
# A backup bundle starts a second attempt of a running task, on another worker than the first attempt.
_CLAIM = """
    WITH bundle AS (
        UPDATE bundles AS b SET worker_id = $1, claimed_at = now()
        FROM (
            SELECT bundle_id FROM bundles WHERE bundle_id = ANY($2::uuid[]) AND worker_id IS NULL
              AND backup_of IS DISTINCT FROM $1 AND avoid IS DISTINCT FROM $1
              AND job_id >= ANY($4) AND job_id < ANY($5)
            ORDER BY bundle_id FOR UPDATE
        ) AS offered WHERE b.bundle_id = offered.bundle_id
        RETURNING b.bundle_id, b.job_id, b.stage, b.first, b.count, b.backup_of
    ), taken AS (
        UPDATE tasks AS t SET state = 'running', attempt = greatest(t.attempt, t.backup_attempt) + 1, worker_id = $1,
            started_at = now(), backup_attempt = NULL, backup_worker_id = NULL, backup_started_at = NULL
        FROM bundle AS b
        WHERE t.job_id = b.job_id AND t.stage = b.stage AND t.index >= b.first AND t.index < b.first + b.count
          AND t.state = 'queued' AND b.backup_of IS NULL AND t.job_id >= ANY($4) AND t.job_id < ANY($5)
        RETURNING b.bundle_id, t.job_id, t.stage, t.index, t.attempt, t.input
    ), backed_up AS (
        UPDATE tasks AS t SET backup_attempt = t.attempt + 1, backup_worker_id = $1, backup_started_at = now()
        FROM bundle AS b
        WHERE t.job_id = b.job_id AND t.stage = b.stage AND t.index = b.first
          AND t.state = 'running' AND t.worker_id = b.backup_of AND t.backup_attempt IS NULL
          AND t.job_id >= ANY($4) AND t.job_id < ANY($5)
        RETURNING b.bundle_id, t.job_id, t.stage, t.index, t.backup_attempt, t.input
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, slot, queued, running)
        SELECT job_id, stage, $3::smallint, -count(*), count(*) FROM taken GROUP BY job_id, stage
        ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET
            queued = c.queued + excluded.queued, running = c.running + excluded.running
    )
    SELECT bundle_id, job_id, stage, index, attempt, input FROM taken
    UNION ALL SELECT bundle_id, job_id, stage, index, backup_attempt, input FROM backed_up
    ORDER BY job_id, stage, index"""


async def claim(
    connection: Connection | Database,
    worker_id: UUID,
    bundle_ids: Sequence[UUID],
    job_ids: Iterable[UUID] | None = None,
) -> list[ClaimedTask]:
    """Claim the tasks of the bundles that are unclaimed; the others (duplicates, cancelled) give nothing.

    `job_ids` are the bundles' jobs: with them, it takes half the time.
    """
    months = ALL if job_ids is None else months_of(job_ids)
    rows = await connection.fetch(_CLAIM, worker_id, bundle_ids, _shard(worker_id), *months)
    return [
        ClaimedTask(bundle_id, job_id, stage, index, attempt, parse_input(value), TaskSource.of(value))
        for bundle_id, job_id, stage, index, attempt, value in rows
    ]


# reserve: a worker keeps room for a bundle that found none for a while. One at a time does; any may still claim it.
_RESERVE = """
    UPDATE bundles SET reserved_by = $1, reserved_until = now() + $3 * interval '1 second'
    WHERE bundle_id = $2 AND worker_id IS NULL AND queued_at <= now() - $4 * interval '1 second'
      AND (reserved_by IS NULL OR reserved_by = $1 OR reserved_until < now())
    RETURNING true"""


async def reserve(
    connection: Connection | Database, worker_id: UUID, bundle_id: UUID, *, seconds: float, waited_seconds: float
) -> bool:
    """Reserve an unclaimed bundle that was queued this long ago, or go on to do so, for `seconds`.

    False if it is claimed, gone, or another's.
    """
    return bool(await connection.fetchval(_RESERVE, worker_id, bundle_id, seconds, waited_seconds))


# put off: a worker can't run the bundle, but a newer one may. The bundle stays unclaimed: there is no attempt of it.
_PUT_OFF = """
    UPDATE bundles SET put_off = least(put_off + 1, 32767), put_off_error = $4,
        send_at = now() + least($2 * 2 ^ least(put_off, 30), $3) * interval '1 second'
    WHERE bundle_id = $1 AND worker_id IS NULL
    RETURNING put_off"""


async def put_off(
    connection: Connection | Database,
    bundle_id: UUID,
    *,
    seconds_first: float,
    seconds_max: float,
    why: str | None = None,
) -> int | None:
    """Offer an unclaimed bundle again after a wait that doubles each time, and note what this worker lacks.

    The caller deletes its message.

    Returns how often it was put off so far; None if it is claimed or gone.
    """
    times: int | None = await connection.fetchval(_PUT_OFF, bundle_id, seconds_first, seconds_max, why)
    return times


async def drop_orphan(connection: Connection | Database, bundle_id: UUID) -> None:
    """Delete an unclaimed bundle whose job was deleted: no worker can ever run it."""
    await connection.execute(
        "DELETE FROM bundles AS b WHERE bundle_id = $1 AND worker_id IS NULL "
        "AND NOT EXISTS (SELECT FROM stages AS s WHERE s.job_id = b.job_id AND s.stage = b.stage)",
        bundle_id,
    )


# complete: running → succeeded, failed, or ready again. An attempt that no longer holds its task updates nothing.
# A chained stage's success makes the task of the same index in the next stage, in the same statement. (If that is
# there, the success replaces one whose output was lost.)
# A released attempt that tells why (its `error`) could not work where or when it was: its task waits, for 2 s after the
# first attempt, up to a minute after later ones.
# If two attempts race (backup_worker_id is set), one that does not succeed leaves the task to the other, and is not a
# failure of the task. If a node could not run it (losses_max is set), this counts as a loss, as if the worker had died.
# If the backup wins or goes on, its columns and those of the first attempt are swapped.
# d holds the reports, by field name. (`dropped` comes first only for the order of locks: bundles first.)
# Whoever ends the last bundle of a stage says so: there is a task to dispatch, or the stage is over. Of two workers who
# do it at the same time neither may see that it was the last one: then the scheduler's next look finds out.
_COMPLETE = """
    WITH dropped AS (
        DELETE FROM bundles AS b USING (
            SELECT bundle_id FROM bundles WHERE bundle_id = ANY($4::uuid[]) AND worker_id = $1
            ORDER BY bundle_id FOR UPDATE
        ) AS done WHERE b.bundle_id = done.bundle_id
        RETURNING b.job_id, b.stage
    ), d AS MATERIALIZED (
        SELECT d.*, d.outcome = 'succeeded' AS won,
            CASE WHEN s.pools IS NULL THEN s.pool
                ELSE coalesce((SELECT w.pool FROM workers AS w WHERE w.worker_id = $1), s.pool) END AS pool,
            s.chains, s.output_queue, s.max_attempts, s.backoff_seconds, s.backoff_max_seconds
        FROM json_to_recordset($3::json) AS d (job_id uuid, stage smallint, index integer, attempt smallint,
            outcome text, run_seconds float8, output jsonb, error jsonb, retryable boolean, losses_max smallint,
            exit_code integer,
            bytes_in bigint, bytes_out bigint, records_in bigint, records_out bigint, records_rejected bigint,
            records_filtered bigint, records_added bigint, cpu_seconds float8, memory_bytes_peak bigint, log text,
            fetch_seconds float8, put_seconds float8, ended_at float8)
        JOIN stages AS s ON s.job_id = d.job_id AND s.stage = d.stage
        WHERE (SELECT count(*) FROM dropped) >= 0
    ), ended AS (
        UPDATE tasks AS t SET
            state = CASE
                WHEN d.won THEN 'succeeded'
                WHEN t.backup_worker_id IS NOT NULL THEN 'running'
                WHEN t.losses + 1 >= d.losses_max THEN 'failed'
                WHEN d.outcome = 'released' OR d.retryable AND t.failures + 1 < d.max_attempts THEN 'ready'
                ELSE 'failed' END,
            failures = t.failures
                + (NOT d.won AND d.outcome <> 'released' AND t.backup_worker_id IS NULL)::integer,
            losses = t.losses + (d.losses_max IS NOT NULL AND t.backup_worker_id IS NULL)::integer,
            ready_at = CASE
                WHEN d.won OR t.backup_worker_id IS NOT NULL OR t.losses + 1 >= d.losses_max THEN NULL
                WHEN d.outcome = 'released' THEN now() + CASE WHEN d.error IS NULL THEN 0
                    ELSE least(60, 2 ^ least(d.attempt, 6)) * (0.5 + random() / 2) END * interval '1 second'
                WHEN d.retryable AND t.failures + 1 < d.max_attempts THEN
                    now() + least(d.backoff_max_seconds, d.backoff_seconds * 2 ^ t.failures)
                        * (0.5 + random() / 2) * interval '1 second'
                END,
            finished_at = CASE
                WHEN d.won OR t.backup_worker_id IS NULL AND t.losses + 1 >= d.losses_max THEN now()
                WHEN t.backup_worker_id IS NOT NULL OR d.outcome = 'released' THEN NULL
                WHEN d.retryable AND t.failures + 1 < d.max_attempts THEN NULL
                ELSE now() END,
            attempt = CASE WHEN d.won = (d.attempt = t.backup_attempt) AND t.backup_worker_id IS NOT NULL
                THEN t.backup_attempt ELSE t.attempt END,
            worker_id = CASE WHEN d.won = (d.attempt = t.backup_attempt) AND t.backup_worker_id IS NOT NULL
                THEN t.backup_worker_id ELSE t.worker_id END,
            started_at = CASE WHEN d.won = (d.attempt = t.backup_attempt) AND t.backup_worker_id IS NOT NULL
                THEN t.backup_started_at ELSE t.started_at END,
            backup_attempt = CASE WHEN d.won = (d.attempt = t.backup_attempt) AND t.backup_worker_id IS NOT NULL
                THEN t.attempt ELSE t.backup_attempt END,
            backup_worker_id = CASE WHEN NOT d.won THEN NULL
                WHEN d.attempt = t.backup_attempt AND t.backup_worker_id IS NOT NULL
                THEN t.worker_id ELSE t.backup_worker_id END,
            backup_started_at = CASE WHEN NOT d.won THEN NULL
                WHEN d.attempt = t.backup_attempt AND t.backup_worker_id IS NOT NULL
                THEN t.started_at ELSE t.backup_started_at END,
            output = d.output,
            error = d.error
        FROM d
        WHERE t.job_id = d.job_id AND t.stage = d.stage AND t.index = d.index AND t.state = 'running'
          AND (t.attempt = d.attempt AND t.worker_id = $1 OR t.backup_attempt = d.attempt AND t.backup_worker_id = $1)
          AND t.job_id >= ANY($5) AND t.job_id < ANY($6)
        RETURNING d.*, t.state, t.backup_attempt AS loser, t.backup_worker_id AS loser_worker_id,
            t.backup_started_at AS loser_started_at,
            CASE WHEN d.chains AND d.won THEN source_of(t.input) END AS source
    ), successors AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input, attempt)
        SELECT e.job_id, e.stage + 1, e.index, 'ready', now(), successor_input(e.output, e.source), (
            SELECT n.attempt_base FROM stages AS n WHERE n.job_id = e.job_id AND n.stage = e.stage + 1)
        FROM ended AS e WHERE e.chains AND e.won
        ON CONFLICT (job_id, stage, index) DO NOTHING
        RETURNING job_id, stage
    ), told AS (
        INSERT INTO queue_messages (queue_url, job_id, body)
        SELECT output_queue, job_id, jsonb_build_object('type', 'task.succeeded', 'timestamp', now(), 'data',
            jsonb_build_object('job_id', job_id, 'stage', stage, 'index', index, 'attempt', attempt, 'output', output))
        FROM ended WHERE output_queue IS NOT NULL AND won
        ORDER BY job_id, stage, index
    ), recorded AS (
        INSERT INTO attempts (job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at,
            run_seconds, exit_code, error, bytes_in, bytes_out, records_in, records_out, records_rejected,
            records_filtered, records_added, cpu_seconds, memory_bytes_peak, log, fetch_seconds, put_seconds)
        SELECT job_id, stage, index, attempt, $1, pool, outcome,
            now() - (run_seconds + greatest(0, $8::float8 - ended_at)) * interval '1 second', now(),
            run_seconds, exit_code, error, bytes_in, bytes_out, records_in, records_out, records_rejected,
            records_filtered, records_added, cpu_seconds, memory_bytes_peak, log, fetch_seconds, put_seconds
        FROM ended
    ), overtaken AS (
        INSERT INTO attempts (job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at,
            run_seconds, error)
        SELECT job_id, stage, index, loser, loser_worker_id, pool, 'cancelled', least(loser_started_at, now()), now(),
            greatest(extract(epoch FROM now() - loser_started_at), 0),
            jsonb_build_object('type', 'overtaken', 'message', format('attempt %s succeeded first', attempt))
        FROM ended WHERE loser_worker_id IS NOT NULL
    ), changes AS (
        SELECT job_id, stage, state, outcome, run_seconds,
            records_in, records_out, records_rejected, records_filtered, records_added
        FROM ended
        UNION ALL SELECT job_id, stage, 'ready', NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM successors
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, slot, ready, running, succeeded, failed, attempts, busy_seconds,
            wasted_seconds, records_in, records_out, records_rejected, records_filtered, records_added)
        SELECT job_id, stage, $2::smallint,
            count(*) FILTER (WHERE state = 'ready'),
            -count(*) FILTER (WHERE outcome IS NOT NULL AND state <> 'running'),
            count(*) FILTER (WHERE state = 'succeeded'),
            count(*) FILTER (WHERE state = 'failed'),
            count(*) FILTER (WHERE outcome <> 'released'),
            coalesce(sum(run_seconds), 0),
            coalesce(sum(run_seconds) FILTER (WHERE outcome <> 'succeeded'), 0),
            coalesce(sum(records_in) FILTER (WHERE state = 'succeeded'), 0),
            coalesce(sum(records_out) FILTER (WHERE state = 'succeeded'), 0),
            coalesce(sum(records_rejected) FILTER (WHERE state = 'succeeded'), 0),
            coalesce(sum(records_filtered) FILTER (WHERE state = 'succeeded'), 0),
            coalesce(sum(records_added) FILTER (WHERE state = 'succeeded'), 0)
        FROM changes GROUP BY job_id, stage ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET
            ready = c.ready + excluded.ready,
            running = c.running + excluded.running,
            succeeded = c.succeeded + excluded.succeeded,
            failed = c.failed + excluded.failed,
            attempts = c.attempts + excluded.attempts,
            busy_seconds = c.busy_seconds + excluded.busy_seconds,
            wasted_seconds = c.wasted_seconds + excluded.wasted_seconds,
            records_in = c.records_in + excluded.records_in,
            records_out = c.records_out + excluded.records_out,
            records_rejected = c.records_rejected + excluded.records_rejected,
            records_filtered = c.records_filtered + excluded.records_filtered,
            records_added = c.records_added + excluded.records_added
    )
    SELECT (SELECT count(*) FROM ended), CASE WHEN EXISTS (
        SELECT FROM dropped AS o WHERE NOT EXISTS (
            SELECT FROM bundles AS b
            WHERE b.job_id = o.job_id AND b.stage = o.stage AND b.bundle_id <> ALL($4::uuid[]))
    ) THEN pg_notify($7, '') END"""

_key = attrgetter("job_id", "stage", "index")  # the order of locks


async def complete(
    connection: Connection | Database, worker_id: UUID, finished: Sequence[AttemptReport], bundles_done: Sequence[UUID]
) -> int:
    """End these attempts, and delete the bundles that have nothing left to run. Safe to repeat.

    Returns how many attempts still held their task. The others were lost or cancelled, and change nothing.
    """
    reports = sorted(finished, key=_key)
    months = months_of({report.job_id for report in reports})
    arguments = (worker_id, _shard(worker_id), reports, bundles_done, *months, TASKS_CHANNEL, time.monotonic())
    accepted: int = await connection.fetchval(_COMPLETE, *arguments)
    return accepted


# give back: running → ready (or failed after too many lost workers), for whole bundles. A task belongs to the bundle
# whose claim started it: given back alone, it may be claimed again while its first bundle is still held.
# If only one of two racing attempts is given back, the task goes on with the other.
# ($4: only bundles that this worker holds; null: any worker.)
_GIVE_BACK = """
    WITH dropped AS (
        DELETE FROM bundles AS b USING (
            SELECT bundle_id FROM bundles WHERE bundle_id = ANY($3::uuid[]) AND ($4::uuid IS NULL OR worker_id = $4)
            ORDER BY job_id, stage, first FOR UPDATE SKIP LOCKED
        ) AS gone WHERE b.bundle_id = gone.bundle_id
        RETURNING b.job_id, b.stage, b.first, b.count, b.worker_id, b.claimed_at, b.pool
    ), cut_off AS MATERIALIZED (
        SELECT t.job_id, t.stage, t.index, d.pool, d.worker_id, d.claimed_at, t.worker_id = d.worker_id AS is_first,
            CASE WHEN t.worker_id = d.worker_id THEN t.attempt ELSE t.backup_attempt END AS attempt
        FROM dropped AS d JOIN tasks AS t ON t.job_id = d.job_id AND t.stage = d.stage
            AND t.index >= d.first AND t.index < d.first + d.count
        WHERE t.state = 'running' AND (t.worker_id = d.worker_id AND t.started_at = d.claimed_at
            OR t.backup_worker_id = d.worker_id AND t.backup_started_at = d.claimed_at)
        ORDER BY t.job_id, t.stage, t.index FOR UPDATE OF t
    ), explained AS (
        SELECT *, CASE WHEN $1 = 'lost' THEN jsonb_build_object('type', 'lost', 'message',
            format('worker %s was lost while it ran attempt %s', worker_id, attempt)) END AS error FROM cut_off
    ), by_task AS MATERIALIZED (
        SELECT job_id, stage, index, bool_or(is_first) AS first_gone, bool_or(NOT is_first) AS backup_gone,
            (array_agg(error))[1] AS error
        FROM explained GROUP BY job_id, stage, index
    ), shortened AS (
        UPDATE tasks AS t SET
            attempt = CASE WHEN e.first_gone THEN t.backup_attempt ELSE t.attempt END,
            worker_id = CASE WHEN e.first_gone THEN t.backup_worker_id ELSE t.worker_id END,
            started_at = CASE WHEN e.first_gone THEN t.backup_started_at ELSE t.started_at END,
            backup_attempt = CASE WHEN e.first_gone THEN t.attempt ELSE t.backup_attempt END,
            backup_worker_id = NULL,
            backup_started_at = NULL
        FROM by_task AS e
        WHERE t.job_id = e.job_id AND t.stage = e.stage AND t.index = e.index
          AND t.backup_worker_id IS NOT NULL AND NOT (e.first_gone AND e.backup_gone)
    ), back AS (
        UPDATE tasks AS t SET
            state = CASE WHEN $1 = 'lost' AND t.losses + 1 >= $2 THEN 'failed' ELSE 'ready' END,
            losses = t.losses + ($1 = 'lost')::integer,
            ready_at = CASE WHEN $1 = 'lost' AND t.losses + 1 >= $2 THEN NULL ELSE now() END,
            finished_at = CASE WHEN $1 = 'lost' AND t.losses + 1 >= $2 THEN now() END,
            error = coalesce(e.error, t.error),
            backup_worker_id = NULL,
            backup_started_at = NULL
        FROM by_task AS e
        WHERE t.job_id = e.job_id AND t.stage = e.stage AND t.index = e.index
          AND (t.backup_worker_id IS NULL OR e.first_gone AND e.backup_gone)
        RETURNING t.job_id, t.stage, t.state
    ), recorded AS (
        INSERT INTO attempts (job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at,
            run_seconds, error)
        SELECT job_id, stage, index, attempt, worker_id, pool, $1, least(claimed_at, now()), now(),
            greatest(extract(epoch FROM now() - claimed_at), 0), error
        FROM explained
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, running, ready, failed)
        SELECT job_id, stage, -count(*), count(*) FILTER (WHERE state = 'ready'),
            count(*) FILTER (WHERE state = 'failed')
        FROM back GROUP BY job_id, stage ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET running = c.running + excluded.running,
            ready = c.ready + excluded.ready, failed = c.failed + excluded.failed
    )
    SELECT count(*) FROM cut_off"""


async def _give_back(
    connection: Connection | Database,
    outcome: str,
    bundle_ids: Sequence[UUID],
    *,
    losses_max: int = 0,
    held_by: UUID | None = None,
) -> int:
    """End the attempts of these bundles with this outcome; returns how many."""
    count: int = await connection.fetchval(_GIVE_BACK, outcome, losses_max, bundle_ids, held_by, timeout=LONG_SECONDS)
    return count


# A claimed bundle belongs to its worker until it is deleted, and a lost or stopped worker never comes back. So the next
# statement may give back what this one finds.
_HELD_BY_DEAD = """
    SELECT b.bundle_id, w.interrupted_at IS NOT NULL AS interrupted
    FROM bundles AS b LEFT JOIN workers AS w USING (worker_id)
    WHERE b.worker_id IS NOT NULL AND coalesce(w.state, 'lost') IN ('lost', 'stopped')"""


async def reap_dead_workers(connection: Connection | Database, losses_max: int) -> int:
    """Give back the running tasks of lost and stopped workers; returns the number of attempts that this ends.

    A loss is not a failure of the task, but after `losses_max` losses the task fails: it may kill its workers. Whatever
    EC2 is known to have ended was not killed by a task: its attempts count as released.
    """
    bundles = await connection.fetch(_HELD_BY_DEAD, timeout=LONG_SECONDS)
    lost = [row["bundle_id"] for row in bundles if not row["interrupted"]]
    interrupted = [row["bundle_id"] for row in bundles if row["interrupted"]]
    count = await _give_back(connection, "lost", lost, losses_max=losses_max) if lost else 0
    return count + (await _give_back(connection, "released", interrupted) if interrupted else 0)


async def abandon(connection: Connection | Database, worker_id: UUID, bundle_ids: Sequence[UUID]) -> int:
    """Give back bundles that a worker does not know of (the reply of its claim was lost); returns how many attempts."""
    return await _give_back(connection, "released", bundle_ids, held_by=worker_id)


# overdue: a worker that sends heartbeats but hangs. Its own timeout comes first; this is the safety net, with slack.
# Time in which the database was away does not count: what has ended meanwhile is still to be reported.
_OVERDUE = """
    SELECT b.bundle_id FROM bundles AS b JOIN stages AS s USING (job_id, stage)
    WHERE b.worker_id IS NOT NULL
      AND b.claimed_at < now() - (s.timeout_seconds * b.count + $1) * interval '1 second'
      AND seen_seconds(b.claimed_at) > s.timeout_seconds * b.count + $1 LIMIT 1000"""


async def reap_overdue(connection: Connection | Database, slack_seconds: float, losses_max: int) -> int:
    """Give back bundles held longer than all their tasks' timeouts together; returns how many attempts."""
    count = 0
    for row in await connection.fetch(_OVERDUE, slack_seconds):
        count += await _give_back(connection, "lost", [row["bundle_id"]], losses_max=losses_max)
    return count


# withdraw: queued → ready, for the unclaimed bundles of a job or a pool that is paused, or of tasks to be cancelled.
_WITHDRAW = """
    WITH dropped AS (
        DELETE FROM bundles AS b USING (
            SELECT bundle_id FROM bundles
            WHERE worker_id IS NULL AND (job_id = $1 OR pool = $2 OR bundle_id = ANY($3::uuid[]))
            ORDER BY bundle_id FOR UPDATE
        ) AS unclaimed WHERE b.bundle_id = unclaimed.bundle_id
        RETURNING b.job_id, b.stage, b.first, b.count, b.backup_of
    ), back AS (
        UPDATE tasks AS t SET state = 'ready', ready_at = now()
        FROM dropped AS d
        WHERE t.job_id = d.job_id AND t.stage = d.stage AND t.index >= d.first AND t.index < d.first + d.count
          AND t.state = 'queued' AND d.backup_of IS NULL
        RETURNING t.job_id, t.stage
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, queued, ready)
        SELECT job_id, stage, -count(*), count(*) FROM back GROUP BY job_id, stage ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET
            queued = c.queued + excluded.queued, ready = c.ready + excluded.ready
    )
    SELECT count(*) FROM back"""


async def withdraw(
    connection: Connection, *, job_id: UUID | None = None, pool: str | None = None, bundle_ids: Sequence[UUID] = ()
) -> int:
    """Take back bundles that are queued but not claimed; their messages become duplicates that claim nothing."""
    count: int = await connection.fetchval(_WITHDRAW, job_id, pool, bundle_ids, timeout=LONG_SECONDS)
    return count


_RELEASED_AT_ONCE = 1_000

_HELD = "SELECT bundle_id FROM bundles WHERE worker_id IS NOT NULL"


async def release_all(connection: Connection) -> int:
    """Take back all that is queued or running, whoever runs it; returns how many attempts this ends."""
    for row in await connection.fetch("SELECT name FROM pools"):
        await connection.fetchval(_WITHDRAW, None, row["name"], [], timeout=None)
    bundles = [row["bundle_id"] for row in await connection.fetch(_HELD)]
    portions = [bundles[at : at + _RELEASED_AT_ONCE] for at in range(0, len(bundles), _RELEASED_AT_ONCE)]
    return sum([await _give_back(connection, "released", portion) for portion in portions])


# cancel: every task of an ending job that is not terminal → cancelled, in bundles or ready.
_LOCK_ENDING = "SELECT job_id FROM jobs WHERE job_id = $1 AND state IN ('cancelling', 'failing') FOR UPDATE"

# A statement of its own takes the locks: only the next one is sure to see what a concurrent claim has changed.
_LOCK_BUNDLES = """
    SELECT bundle_id FROM bundles WHERE job_id = $1 AND backup_of IS NULL
    ORDER BY stage, first LIMIT $2 FOR UPDATE SKIP LOCKED"""

_BACKUPS = "SELECT bundle_id FROM bundles WHERE job_id = $1 AND backup_of IS NOT NULL"

_CANCEL_BUNDLED = """
    WITH dropped AS (
        DELETE FROM bundles WHERE bundle_id = ANY($1::uuid[])
        RETURNING job_id, stage, first, count, worker_id, claimed_at, pool
    ), cancelled AS (
        UPDATE tasks AS t SET state = 'cancelled', finished_at = now()
        FROM (SELECT * FROM dropped ORDER BY stage, first) AS d
        WHERE t.job_id = d.job_id AND t.stage = d.stage AND t.index >= d.first AND t.index < d.first + d.count
          AND (t.state = 'running' AND t.worker_id = d.worker_id AND t.started_at = d.claimed_at
            OR t.state = 'queued' AND d.worker_id IS NULL)
        RETURNING t.job_id, t.stage, t.index, t.attempt, d.worker_id, t.started_at, d.pool,
            t.backup_attempt, t.backup_worker_id, t.backup_started_at
    ), recorded AS (
        INSERT INTO attempts (job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at,
            run_seconds)
        SELECT job_id, stage, index, a.attempt, a.worker_id, pool, 'cancelled', least(a.started_at, now()), now(),
            greatest(extract(epoch FROM now() - a.started_at), 0)
        FROM cancelled AS c CROSS JOIN LATERAL (
            VALUES (attempt, worker_id, started_at), (backup_attempt, backup_worker_id, backup_started_at)
        ) AS a (attempt, worker_id, started_at)
        WHERE c.worker_id IS NOT NULL AND a.worker_id IS NOT NULL
    )
    INSERT INTO stage_counters AS c (job_id, stage, queued, running, cancelled)
    SELECT job_id, stage, -count(*) FILTER (WHERE worker_id IS NULL), -count(*) FILTER (WHERE worker_id IS NOT NULL),
        count(*)
    FROM cancelled GROUP BY job_id, stage ORDER BY job_id, stage
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET queued = c.queued + excluded.queued,
        running = c.running + excluded.running, cancelled = c.cancelled + excluded.cancelled"""

_CANCEL_READY = """
    WITH rest AS MATERIALIZED (
        SELECT job_id, stage, index FROM tasks WHERE job_id = $1 AND ready_at IS NOT NULL LIMIT $2
    ), cancelled AS (
        UPDATE tasks AS t SET state = 'cancelled', ready_at = NULL, finished_at = now()
        FROM rest AS r
        WHERE t.job_id = r.job_id AND t.stage = r.stage AND t.index = r.index AND t.state = 'ready'
        RETURNING t.job_id, t.stage
    )
    INSERT INTO stage_counters AS c (job_id, stage, ready, cancelled)
    SELECT job_id, stage, -count(*), count(*) FROM cancelled GROUP BY job_id, stage ORDER BY job_id, stage
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET
        ready = c.ready + excluded.ready, cancelled = c.cancelled + excluded.cancelled"""

_ANY_LEFT = """
    SELECT EXISTS (SELECT FROM bundles WHERE job_id = $1)
        OR EXISTS (SELECT FROM tasks WHERE job_id = $1 AND ready_at IS NOT NULL)"""


async def cancel_tasks(connection: Connection, job_id: UUID, tasks_max: int) -> bool:
    """Cancel some of the unfinished tasks of a job that is cancelling or failing; True when none is left.

    In that state nothing new is planned or dispatched. Workers learn from their heartbeats that the bundles are gone.
    """
    async with connection.transaction():
        if not await connection.fetchval(_LOCK_ENDING, job_id):
            return True
        backups = await connection.fetch(_BACKUPS, job_id)
        await _give_back(connection, "cancelled", [bundle["bundle_id"] for bundle in backups])
        bundles = await connection.fetch(_LOCK_BUNDLES, job_id, tasks_max)
        await connection.execute(_CANCEL_BUNDLED, [bundle["bundle_id"] for bundle in bundles])
        await connection.execute(_CANCEL_READY, job_id, tasks_max)
        return not await connection.fetchval(_ANY_LEFT, job_id)


# cancel some: ready, running → cancelled, by their index; bundles that offer queued ones are withdrawn before. The
# bundle of a running one tells its worker (`cancelled`), since its neighbours run on. What was cancelled before it
# began has an attempt on record, too: its end is told like any other (services/engine/values.py).
_LOCK_BUNDLES_OF = """
    SELECT bundle_id FROM bundles AS b
    WHERE job_id = $1 AND stage = $2 AND EXISTS (
        SELECT FROM unnest($3::integer[]) AS index WHERE index >= b.first AND index < b.first + b.count)
    ORDER BY bundle_id FOR UPDATE"""

_CANCEL_SOME = """
    WITH unfinished AS MATERIALIZED (
        SELECT index, state, worker_id, started_at FROM tasks
        WHERE job_id = $1 AND stage = $2 AND index = ANY($3) AND state IN ('ready', 'queued', 'running')
        ORDER BY index FOR UPDATE
    ), found AS MATERIALIZED (
        SELECT u.index, u.state, coalesce(h.pool, s.pool) AS pool
        FROM unfinished AS u JOIN stages AS s ON s.job_id = $1 AND s.stage = $2 LEFT JOIN LATERAL (
            SELECT b.pool FROM bundles AS b
            WHERE b.bundle_id = ANY($4) AND u.index >= b.first AND u.index < b.first + b.count
              AND b.worker_id = u.worker_id AND b.claimed_at = u.started_at
            LIMIT 1
        ) AS h ON u.state = 'running'
        WHERE u.state = 'ready' OR h.pool IS NOT NULL
    ), cancelled AS (
        UPDATE tasks AS t SET state = 'cancelled', ready_at = NULL, finished_at = now(),
            attempt = CASE WHEN f.state = 'running' THEN t.attempt ELSE greatest(t.attempt, t.backup_attempt) + 1 END,
            error = jsonb_build_object('type', 'cancelled', 'message', CASE WHEN f.state = 'running'
                THEN format('somebody cancelled it while attempt %s ran', t.attempt)
                ELSE 'somebody cancelled it before it began' END)
        FROM found AS f
        WHERE t.job_id = $1 AND t.stage = $2 AND t.index = f.index
        RETURNING t.index, t.attempt, t.worker_id, t.started_at, t.backup_attempt, t.backup_worker_id,
            t.backup_started_at, t.error, f.state AS was, f.pool
    ), marked AS (
        UPDATE bundles AS b SET cancelled = b.cancelled || m.indexes
        FROM (
            SELECT o.bundle_id, array_agg(c.index ORDER BY c.index) AS indexes
            FROM cancelled AS c JOIN bundles AS o ON o.bundle_id = ANY($4)
                AND c.index >= o.first AND c.index < o.first + o.count
                AND o.worker_id IN (c.worker_id, c.backup_worker_id)
            WHERE c.was = 'running' GROUP BY o.bundle_id
        ) AS m WHERE b.bundle_id = m.bundle_id
    ), ended AS (
        SELECT index, attempt, worker_id, started_at, pool, error FROM cancelled WHERE was = 'running'
        UNION ALL SELECT index, backup_attempt, backup_worker_id, backup_started_at, pool, error FROM cancelled
            WHERE was = 'running' AND backup_worker_id IS NOT NULL
        UNION ALL SELECT index, attempt, NULL, now(), pool, error FROM cancelled WHERE was <> 'running'
    ), recorded AS (
        INSERT INTO attempts (job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at,
            run_seconds, error)
        SELECT $1, $2, index, attempt, worker_id, pool, 'cancelled', least(started_at, now()), now(),
            greatest(extract(epoch FROM now() - started_at), 0), error
        FROM ended
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready, running, cancelled)
        SELECT $1, $2, -count(*) FILTER (WHERE was = 'ready'), -count(*) FILTER (WHERE was = 'running'), count(*)
        FROM cancelled HAVING count(*) > 0
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready,
            running = c.running + excluded.running, cancelled = c.cancelled + excluded.cancelled
    )
    SELECT (SELECT count(*) FROM unfinished) = (SELECT count(*) FROM found)"""


async def cancel_some(connection: Connection, job_id: UUID, stage: int, indexes: Sequence[int]) -> bool:
    """Cancel those of these tasks that have not ended; False if some moved on meanwhile: call again.

    What waits never runs, what runs is killed, whoever reports it then changes nothing. The caller is in a transaction
    and holds the job.
    """
    bundles = [row["bundle_id"] for row in await connection.fetch(_LOCK_BUNDLES_OF, job_id, stage, indexes)]
    await withdraw(connection, bundle_ids=bundles)
    all_found: bool = await connection.fetchval(_CANCEL_SOME, job_id, stage, indexes, bundles)
    return all_found


# backup: if a bundle is held far longer than its tasks should take, each task that still runs is offered once more.
_OFFER_BACKUPS = """
    WITH job AS (
        SELECT job_id FROM jobs WHERE job_id = $1 AND state = 'running' FOR SHARE
    ), slow AS MATERIALIZED (
        SELECT bundle_id, job_id, stage, first, count, worker_id, claimed_at, needs FROM bundles
        WHERE job_id = (SELECT job_id FROM job) AND stage = $2 AND worker_id IS NOT NULL
          AND NOT backed_up AND backup_of IS NULL
          AND is_late(claimed_at, count, $3, $4)
        ORDER BY claimed_at, first LIMIT $5 FOR UPDATE SKIP LOCKED
    ), marked AS (
        UPDATE bundles AS b SET backed_up = true FROM slow WHERE b.bundle_id = slow.bundle_id
    )
    INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at, backup_of, needs)
    SELECT gen_random_uuid(), $7, b.job_id, b.stage, t.index, 1, now() + $6 * interval '1 second', b.worker_id,
        b.needs
    FROM slow AS b JOIN tasks AS t ON t.job_id = b.job_id AND t.stage = b.stage
        AND t.index >= b.first AND t.index < b.first + b.count
    WHERE t.state = 'running' AND t.worker_id = b.worker_id AND t.started_at = b.claimed_at
      AND t.backup_attempt IS NULL
    RETURNING bundle_id, job_id, stage, first, count, backup_of, needs,
        (SELECT s.revision FROM stages AS s WHERE s.job_id = $1 AND s.stage = $2) AS revision"""


async def offer_backups(
    connection: Connection | Database,
    job_id: UUID,
    stage: int,
    *,
    pool: str,
    seconds_min: float,
    task_seconds_max: float,
    bundles_max: int,
    resend_seconds: float,
) -> list[Message]:
    """Offer backups of running tasks in bundles held for at least `seconds_min`, and `task_seconds_max` per task, to a
    pool.

    Send the messages after the commit, as with `dispatch`.
    """
    arguments = (seconds_min, task_seconds_max, bundles_max, resend_seconds, pool)
    return [_message(row) for row in await connection.fetch(_OFFER_BACKUPS, job_id, stage, *arguments)]


# settle: bundles in which nothing runs any more, because the other attempt has won. Heartbeats tell their workers.
_LOCK_RACED = """
    SELECT bundle_id FROM bundles WHERE backed_up OR backup_of IS NOT NULL
    ORDER BY bundle_id LIMIT 1000 FOR UPDATE SKIP LOCKED"""

_DROP_SETTLED = """
    DELETE FROM bundles AS b
    WHERE bundle_id = ANY($1::uuid[]) AND NOT EXISTS (
        SELECT FROM tasks AS t
        WHERE t.job_id = b.job_id AND t.stage = b.stage AND t.index >= b.first AND t.index < b.first + b.count
          AND t.state = 'running' AND CASE WHEN b.worker_id IS NULL
            THEN t.worker_id = b.backup_of AND t.backup_attempt IS NULL
            ELSE t.worker_id = b.worker_id AND t.started_at = b.claimed_at
                OR t.backup_worker_id = b.worker_id AND t.backup_started_at = b.claimed_at END)"""


async def settle_races(connection: Connection) -> None:
    """Delete the bundles of attempts that have lost their race, and offers of backups that are no longer needed."""
    async with connection.transaction():
        raced = await connection.fetch(_LOCK_RACED)
        await connection.execute(_DROP_SETTLED, [bundle["bundle_id"] for bundle in raced])


# run again: succeeded → ready, because the output of that very attempt is lost. What the attempt counted is taken back,
# and its record says why. Its stage is reopened, and is not slowed down for it: the success counts as none and the
# attempt stays, which makes two of its retry budget. ($2: the reader, $3: LostOutputs.)
_RUN_AGAIN = """
    WITH lost AS MATERIALIZED (
        SELECT DISTINCT ON (stage, index) stage, index, attempt, uri
        FROM json_to_recordset($3::json) AS l (stage smallint, index integer, attempt smallint, uri text)
        ORDER BY stage, index, attempt DESC
    ), again AS (
        UPDATE tasks AS t SET state = 'ready', ready_at = now(), finished_at = NULL, output = NULL,
            backup_worker_id = NULL, backup_started_at = NULL
        FROM lost AS l
        WHERE t.job_id = $1 AND t.stage = l.stage AND t.index = l.index AND t.attempt = l.attempt
          AND t.state = 'succeeded'
        RETURNING t.job_id, t.stage, t.index, t.attempt, l.uri
    ), explained AS (
        UPDATE attempts AS a SET error = jsonb_build_object('type', 'output_lost', 'message',
            format('%s could not read %s: the task runs again', $2::text, g.uri))
        FROM again AS g
        WHERE a.job_id = g.job_id AND a.stage = g.stage AND a.index = g.index AND a.attempt = g.attempt
          AND a.outcome = 'succeeded'
        RETURNING a.job_id, a.stage, a.run_seconds, a.records_in, a.records_out, a.records_rejected,
            a.records_filtered, a.records_added
    ), reopened AS (
        UPDATE stages AS s SET state = 'running', finished_at = NULL, retry_budget = s.retry_budget + 2 * g.tasks
        FROM (SELECT job_id, stage, count(*) AS tasks FROM again GROUP BY job_id, stage) AS g
        WHERE s.job_id = g.job_id AND s.stage = g.stage
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready, succeeded, wasted_seconds, records_in, records_out,
            records_rejected, records_filtered, records_added)
        SELECT job_id, stage, count(*), -count(*), sum(run_seconds), -sum(records_in), -sum(records_out),
            -sum(records_rejected), -sum(records_filtered), -sum(records_added)
        FROM explained GROUP BY job_id, stage ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready,
            succeeded = c.succeeded + excluded.succeeded, wasted_seconds = c.wasted_seconds + excluded.wasted_seconds,
            records_in = c.records_in + excluded.records_in,
            records_out = c.records_out + excluded.records_out,
            records_rejected = c.records_rejected + excluded.records_rejected,
            records_filtered = c.records_filtered + excluded.records_filtered,
            records_added = c.records_added + excluded.records_added
    )
    SELECT count(*) FROM again"""


async def run_again(connection: Connection, job_id: UUID, reader: str, lost: Sequence[LostOutput]) -> int:
    """Make the tasks whose outputs `reader` could not read ready again, unless they are already; returns how many.

    The caller holds the job, which is running or paused.
    """
    count: int = await connection.fetchval(_RUN_AGAIN, job_id, reader, lost)
    return count


# wait: a ready task becomes due only when it gets its new input, or after a long time: then it looks itself.
_WAIT = """
    UPDATE tasks SET ready_at = now() + $5 * interval '1 second'
    WHERE job_id = $1 AND stage = $2 AND index = $3 AND attempt = $4 AND state = 'ready'"""


async def wait_for_input(
    connection: Connection, job_id: UUID, stage: int, index: int, attempt: int, seconds: float
) -> None:
    """Keep a task that has just been released from being dispatched for that long."""
    await connection.execute(_WAIT, job_id, stage, index, attempt, seconds)


# go on: a task that waits gets its new input. One that has been cancelled or claimed meanwhile keeps the one it has.
_GO_ON = """
    UPDATE tasks SET input = $5, ready_at = now(), error = NULL
    WHERE job_id = $1 AND stage = $2 AND index = $3 AND input = $4 AND state = 'ready'"""


async def go_on(connection: Connection, job_id: UUID, stage: int, index: int, before: Any, after: Any) -> None:
    """Make a task that waits due, with the input `after` in the place of `before`."""
    await connection.execute(_GO_ON, job_id, stage, index, before, after)


# give up: ready → failed, for a task whose input can't be made again.
_GIVE_UP = """
    WITH failed AS (
        UPDATE tasks SET state = 'failed', ready_at = NULL, finished_at = now(), error = $4
        WHERE job_id = $1 AND stage = $2 AND index = $3 AND state = 'ready'
        RETURNING job_id, stage
    )
    INSERT INTO stage_counters AS c (job_id, stage, ready, failed)
    SELECT job_id, stage, -1, 1 FROM failed
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET
        ready = c.ready + excluded.ready, failed = c.failed + excluded.failed"""


async def give_up(connection: Connection, job_id: UUID, stage: int, index: int, error: dict[str, Any]) -> None:
    """Fail a task that waits."""
    await connection.execute(_GIVE_UP, job_id, stage, index, error)


# retry: failed and cancelled → ready, when the user asks, with all attempts allowed again.
_RETRY = """
    WITH again AS (
        UPDATE tasks SET state = 'ready', ready_at = now(), failures = 0, losses = 0, error = NULL, finished_at = NULL
        FROM (SELECT unnest(ARRAY['failed', 'cancelled']) AS was) AS states
        WHERE job_id = $1 AND state = was
          AND stage IN (SELECT stage FROM stages WHERE job_id = $1 AND state = 'running')
        RETURNING job_id, stage, was
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready, failed, cancelled)
        SELECT job_id, stage, count(*), -count(*) FILTER (WHERE was = 'failed'),
            -count(*) FILTER (WHERE was = 'cancelled')
        FROM again GROUP BY job_id, stage ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready,
            failed = c.failed + excluded.failed, cancelled = c.cancelled + excluded.cancelled
    )
    SELECT count(*) FROM again"""


async def retry_tasks(connection: Connection, job_id: UUID) -> int:
    """Make the failed and cancelled tasks of a job's running stages ready again; returns how many."""
    count: int = await connection.fetchval(_RETRY, job_id, timeout=LONG_SECONDS)
    return count


# repeat: succeeded → ready, when the user asks. What the attempts counted is taken back.
_REPEAT = """
    WITH again AS MATERIALIZED (
        SELECT job_id, stage, index, attempt FROM tasks
        WHERE job_id = $1 AND stage = $2 AND state = 'succeeded' AND ($3::integer[] IS NULL OR index = ANY($3))
        ORDER BY index FOR UPDATE
    ), moved AS (
        UPDATE tasks AS t SET state = 'ready', ready_at = now(), failures = 0, losses = 0, error = NULL, output = NULL,
            finished_at = NULL, backup_worker_id = NULL, backup_started_at = NULL
        FROM again AS g WHERE t.job_id = g.job_id AND t.stage = g.stage AND t.index = g.index
    ), made AS (
        UPDATE attempts AS a SET error = jsonb_build_object('type', 'run_again', 'message',
            'its job was retried: the task runs again')
        FROM again AS g
        WHERE a.job_id = g.job_id AND a.stage = g.stage AND a.index = g.index AND a.attempt = g.attempt
          AND a.outcome = 'succeeded'
        RETURNING a.run_seconds, a.records_in, a.records_out, a.records_rejected, a.records_filtered, a.records_added
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready, succeeded, wasted_seconds, records_in, records_out,
            records_rejected, records_filtered, records_added)
        SELECT $1, $2, n.tasks, -n.tasks, coalesce(sum(run_seconds), 0), -coalesce(sum(records_in), 0),
            -coalesce(sum(records_out), 0), -coalesce(sum(records_rejected), 0), -coalesce(sum(records_filtered), 0),
            -coalesce(sum(records_added), 0)
        FROM (SELECT count(*) AS tasks FROM again) AS n LEFT JOIN made ON true GROUP BY n.tasks
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready,
            succeeded = c.succeeded + excluded.succeeded, wasted_seconds = c.wasted_seconds + excluded.wasted_seconds,
            records_in = c.records_in + excluded.records_in,
            records_out = c.records_out + excluded.records_out,
            records_rejected = c.records_rejected + excluded.records_rejected,
            records_filtered = c.records_filtered + excluded.records_filtered,
            records_added = c.records_added + excluded.records_added
    )
    SELECT count(*) FROM again"""


async def repeat_tasks(connection: Connection, job_id: UUID, stage: int, indexes: Sequence[int] | None = None) -> int:
    """Make tasks of a stage that have succeeded ready again, all or those with these indexes; returns how many.

    The caller holds the job, which had ended.
    """
    arguments = (job_id, stage, None if indexes is None else list(indexes))
    count: int = await connection.fetchval(_REPEAT, *arguments, timeout=LONG_SECONDS)
    return count


# drop: the tasks of a stage that are made again. With $3, only those that follow a task which has not succeeded. The
# attempts stay, and the numbers of new ones come after theirs.
_DROP = """
    WITH gone AS (
        DELETE FROM tasks AS t WHERE t.job_id = $1 AND t.stage = $2 AND (NOT $3 OR NOT EXISTS (
            SELECT FROM tasks AS b
            WHERE b.job_id = $1 AND b.stage = $2 - 1 AND b.index = t.index AND b.state = 'succeeded'))
        RETURNING t.job_id, t.stage, t.index, t.state, t.attempt, t.backup_attempt
    ), made AS (
        UPDATE attempts AS a SET error = jsonb_build_object('type', 'run_again', 'message',
            'its job was retried: the task is made again')
        FROM gone AS g
        WHERE a.job_id = g.job_id AND a.stage = g.stage AND a.index = g.index AND a.attempt = g.attempt
          AND g.state = 'succeeded' AND a.outcome = 'succeeded'
        RETURNING a.run_seconds, a.records_in, a.records_out, a.records_rejected, a.records_filtered, a.records_added
    ), counted AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready, succeeded, failed, cancelled, wasted_seconds, records_in,
            records_out, records_rejected, records_filtered, records_added)
        SELECT $1, $2, -n.ready, -n.succeeded, -n.failed, -n.cancelled, coalesce(sum(run_seconds), 0),
            -coalesce(sum(records_in), 0), -coalesce(sum(records_out), 0), -coalesce(sum(records_rejected), 0),
            -coalesce(sum(records_filtered), 0), -coalesce(sum(records_added), 0)
        FROM (
            SELECT count(*) FILTER (WHERE state = 'ready') AS ready,
                count(*) FILTER (WHERE state = 'succeeded') AS succeeded,
                count(*) FILTER (WHERE state = 'failed') AS failed,
                count(*) FILTER (WHERE state = 'cancelled') AS cancelled
            FROM gone
        ) AS n LEFT JOIN made ON true GROUP BY n.ready, n.succeeded, n.failed, n.cancelled
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready,
            succeeded = c.succeeded + excluded.succeeded, failed = c.failed + excluded.failed,
            cancelled = c.cancelled + excluded.cancelled, wasted_seconds = c.wasted_seconds + excluded.wasted_seconds,
            records_in = c.records_in + excluded.records_in,
            records_out = c.records_out + excluded.records_out,
            records_rejected = c.records_rejected + excluded.records_rejected,
            records_filtered = c.records_filtered + excluded.records_filtered,
            records_added = c.records_added + excluded.records_added
    )
    UPDATE stages SET attempt_base = greatest(attempt_base, (SELECT max(greatest(attempt, backup_attempt)) FROM gone))
    WHERE job_id = $1 AND stage = $2
    RETURNING (SELECT count(*) FROM gone)"""


async def drop_tasks(connection: Connection, job_id: UUID, stage: int, *, followers_only: bool) -> int:
    """Delete the tasks of a stage, so that they are made again; returns how many. With `followers_only`, the tasks that
    follow one which is to succeed again.

    The caller holds the job, which had ended: so no attempt of them can still win.
    """
    count: int = await connection.fetchval(_DROP, job_id, stage, followers_only, timeout=LONG_SECONDS)
    return count


# reuse: ready → succeeded, for tasks that take over what another has made. A chained one makes its successor, too.
# Nothing ran, so that it counts as no attempt: run times are measured without it.
_REUSE = """
    WITH d AS MATERIALIZED (
        SELECT d.*, s.chains, s.pool FROM json_to_recordset($3::json) AS d (index integer, output jsonb,
            reused_from jsonb, bytes_in bigint, bytes_out bigint, records_in bigint, records_out bigint,
            records_rejected bigint, records_filtered bigint, records_added bigint)
        JOIN stages AS s ON s.job_id = $1 AND s.stage = $2
    ), ended AS (
        UPDATE tasks AS t SET state = 'succeeded', ready_at = NULL, finished_at = now(), output = d.output
        FROM d WHERE t.job_id = $1 AND t.stage = $2 AND t.index = d.index AND t.state = 'ready'
        RETURNING d.*, t.attempt, CASE WHEN d.chains THEN source_of(t.input) END AS source
    ), successors AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input, attempt)
        SELECT $1, $2::smallint + 1, index, 'ready', now(), successor_input(output, source),
            (SELECT n.attempt_base FROM stages AS n WHERE n.job_id = $1 AND n.stage = $2::smallint + 1)
        FROM ended WHERE chains
        RETURNING stage
    ), recorded AS (
        INSERT INTO attempts (job_id, stage, index, attempt, pool, outcome, started_at, finished_at, run_seconds,
            reused_from, bytes_in, bytes_out, records_in, records_out, records_rejected, records_filtered,
            records_added)
        SELECT $1, $2, index, attempt, pool, 'succeeded', now(), now(), 0,
            reused_from, bytes_in, bytes_out, records_in, records_out, records_rejected, records_filtered,
            records_added
        FROM ended
    ), made AS (
        INSERT INTO stage_counters AS c (job_id, stage, ready)
        SELECT $1, stage, count(*) FROM successors GROUP BY stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready
    )
    INSERT INTO stage_counters AS c (job_id, stage, ready, succeeded, records_in, records_out, records_rejected,
        records_filtered, records_added)
    SELECT $1, $2, -count(*), count(*), sum(records_in), sum(records_out), sum(records_rejected),
        sum(records_filtered), sum(records_added)
    FROM ended HAVING count(*) > 0
    ON CONFLICT (job_id, stage, slot) DO UPDATE SET ready = c.ready + excluded.ready,
        succeeded = c.succeeded + excluded.succeeded,
        records_in = c.records_in + excluded.records_in,
        records_out = c.records_out + excluded.records_out,
        records_rejected = c.records_rejected + excluded.records_rejected,
        records_filtered = c.records_filtered + excluded.records_filtered,
        records_added = c.records_added + excluded.records_added"""


async def reuse_outputs(connection: Connection, job_id: UUID, stage: int, taken: Sequence[Mapping[str, Any]]) -> None:
    """Let tasks of a stage that are ready succeed with outputs that others have made: each with its `index`, `output`,
    `reused_from`, and what its attempt counted. The caller plans them in the same transaction."""
    await connection.execute(_REUSE, job_id, stage, [dict(each) for each in taken], timeout=LONG_SECONDS)


# What a user accepts as changed: whole objects are taken as they are now. A version never changes, so it stays.
_ACCEPT_CHANGED = """
    UPDATE tasks SET input = CASE
        WHEN input ->> 'type' = 'object' THEN unpinned(input)
        ELSE input || jsonb_build_object('objects', (
            SELECT jsonb_agg(unpinned(o.object) ORDER BY o.place)
            FROM jsonb_array_elements(input -> 'objects') WITH ORDINALITY AS o (object, place))) END
    WHERE job_id = $1 AND stage = $2 AND state <> 'succeeded' AND input ->> 'type' IN ('object', 'objects')"""

_FIRST_PART = """
    SELECT index FROM tasks
    WHERE job_id = $1 AND stage = $2 AND state <> 'succeeded' AND input ? 'etag'
      AND input ->> 'type' NOT IN ('object', 'objects')
    ORDER BY index LIMIT 1"""


async def accept_changed_inputs(connection: Connection, job_id: UUID, stage: int) -> int | None:
    """Let the tasks of a stage that run again take their objects as they are now.

    Returns the index of one that works on a part of an object, for which this can't be done. The caller holds the job,
    which had ended.
    """
    await connection.execute(_ACCEPT_CHANGED, job_id, stage, timeout=LONG_SECONDS)
    index: int | None = await connection.fetchval(_FIRST_PART, job_id, stage, timeout=LONG_SECONDS)
    return index
