"""The life of a task: every transition of the task table, each one statement that also keeps the stage's counters.

    ready → queued → running → succeeded | failed | cancelled
      ↑________________|        (retry with backoff, worker lost, bundle withdrawn)

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

from collections.abc import Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any
from uuid import UUID

from services.contract.message import Message
from services.contract.task_input import parse_input
from services.engine.attempt import AttemptReport, ClaimedTask
from services.platform.database import Connection, Database

SCHEDULER_SLOT = 0  # of stage_counters; workers spread over the slots after it
_WORKER_SLOTS = 63
_SUSPECT_LOSSES = 2


def _count(source: str, slot: str, **sums: str) -> str:
    """SQL that adds `sums`, aggregates over the CTE `source` by stage, to the stage's counters in `slot`."""
    names = ", ".join(sums)
    added = ", ".join(f"{name} = c.{name} + excluded.{name}" for name in sums)
    return f"""
        INSERT INTO stage_counters AS c (job_id, stage, slot, {names})
        SELECT job_id, stage, {slot}, {", ".join(sums.values())} FROM {source}
        GROUP BY job_id, stage ORDER BY job_id, stage
        ON CONFLICT (job_id, stage, slot) DO UPDATE SET {added}"""


def _slot(worker_id: UUID) -> int:
    return SCHEDULER_SLOT + 1 + worker_id.int % _WORKER_SLOTS


def _cut_short(started_at: str) -> str:
    """SQL for started_at, finished_at and run_seconds of an attempt that is over now, though its worker runs it.

    It may have begun after now(), the start of the transaction that ends it: that waited for the locks of its claim.
    """
    return f"least({started_at}, now()), now(), greatest(extract(epoch FROM now() - {started_at}), 0)"


def _runs_by(bundle: str) -> str:
    """SQL: whether the worker that has claimed the bundle runs an attempt of task `t`, the first or a backup, by it."""
    return f"""(t.worker_id = {bundle}.worker_id AND t.started_at = {bundle}.claimed_at
            OR t.backup_worker_id = {bundle}.worker_id AND t.backup_started_at = {bundle}.claimed_at)"""


# plan: a splitter's inputs become ready tasks; the caller saves its cursor in the same transaction.
_PLAN = f"""
    WITH planned AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input)
        SELECT $1, $2, $3 + ordinality - 1, 'ready', now(), input
        FROM unnest($4::jsonb[]) WITH ORDINALITY AS part (input, ordinality)
        RETURNING job_id, stage
    ) {_count("planned", str(SCHEDULER_SLOT), ready="count(*)")}"""

_PLAN_SAME = _PLAN.replace(
    "FROM unnest($4::jsonb[]) WITH ORDINALITY AS part (input, ordinality)",
    "FROM (SELECT $4::jsonb AS input) AS part, generate_series(1, $5::integer) AS ordinality",
)


async def plan_tasks(connection: Connection, job_id: UUID, stage: int, first: int, inputs: Sequence[Any]) -> None:
    """Insert ready tasks `first, first + 1, …` with these inputs."""
    await connection.execute(_PLAN, job_id, stage, first, inputs)


async def plan_same_tasks(
    connection: Connection, job_id: UUID, stage: int, first: int, task_input: Any, count: int
) -> None:
    """Insert `count` ready tasks that share one input and differ by their index."""
    await connection.execute(_PLAN_SAME, job_id, stage, first, task_input, count)


# plan after a barrier: what `complete` does for the next stage at once, for a whole stage that has ended.
_OUTPUT_AS_INPUT = """CASE
            WHEN output ? 'uri' THEN jsonb_build_object('type', 'object', 'uri', output -> 'uri')
            ELSE jsonb_build_object('type', 'item', 'value', output -> 'value') END"""

_PLAN_OUTPUTS = f"""
    WITH planned AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input)
        SELECT job_id, stage + 1, index, 'ready', now(), {_OUTPUT_AS_INPUT}
        FROM tasks WHERE job_id = $1 AND stage = $2 - 1 AND index > $3 AND state = 'succeeded'
        ORDER BY index LIMIT $4
        RETURNING job_id, stage, index
    ), counted AS (
        {_count("planned", str(SCHEDULER_SLOT), ready="count(*)")}
    )
    SELECT count(*) AS count, max(index) AS last FROM planned"""


async def plan_outputs(
    connection: Connection, job_id: UUID, stage: int, after: int, tasks_max: int
) -> tuple[int, int | None]:
    """Insert ready tasks that work on the outputs of the stage before, of indexes greater than `after`.

    Returns how many, and the last one's index.
    """
    ((count, last),) = await connection.fetch(_PLAN_OUTPUTS, job_id, stage, after, tasks_max)
    return count, last


# dispatch: ready → queued, in bundles of neighbouring tasks. FOR SHARE on the job orders it against pause and cancel.
# Second tries come first: a job that can't succeed is found out soon, and its end does not wait for them.
# A task that has lost a worker goes alone: if it kills its workers, its neighbours must not fail with it. After a
# second loss it is a suspect, of which a worker runs one at a time, so that no innocent one fails with the culprit.
_DISPATCH = f"""
    WITH job AS (
        SELECT job_id FROM jobs WHERE job_id = $1 AND state = 'running' FOR SHARE
    ), again AS MATERIALIZED (
        SELECT job_id, stage, index FROM tasks
        WHERE job_id = (SELECT job_id FROM job) AND stage = $2 AND ready_at <= now() AND (failures > 0 OR losses > 0)
        ORDER BY ready_at LIMIT $3 FOR UPDATE SKIP LOCKED
    ), fresh AS MATERIALIZED (
        SELECT job_id, stage, index FROM tasks
        WHERE job_id = (SELECT job_id FROM job) AND stage = $2 AND ready_at <= now() AND failures = 0 AND losses = 0
        ORDER BY ready_at, index LIMIT $3 - (SELECT count(*) FROM again) FOR UPDATE SKIP LOCKED
    ), moved AS (
        UPDATE tasks AS t SET state = 'queued', ready_at = NULL, queued_at = now()
        FROM (TABLE again UNION ALL TABLE fresh) AS p
        WHERE t.job_id = p.job_id AND t.stage = p.stage AND t.index = p.index
        RETURNING t.job_id, t.stage, t.index, t.losses > 0 AS alone, t.losses >= {_SUSPECT_LOSSES} AS suspect
    ), islands AS (
        SELECT index, alone, suspect, index - row_number() OVER (PARTITION BY alone ORDER BY index) AS island FROM moved
    ), ranked AS (
        SELECT index, alone, suspect, island, (row_number() OVER (PARTITION BY alone, island ORDER BY index) - 1)
            / CASE WHEN alone THEN 1 ELSE $4 END AS chunk FROM islands
    ), counted AS (
        {_count("moved", str(SCHEDULER_SLOT), ready="-count(*)", queued="count(*)")}
    )
    INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at, suspect)
    SELECT gen_random_uuid(), $5, $1, $2, min(index), count(*), now() + $6 * interval '1 second', bool_or(suspect)
    FROM ranked GROUP BY alone, island, chunk
    RETURNING bundle_id, job_id, stage, first, count, suspect"""


async def dispatch(
    connection: Connection,
    job_id: UUID,
    stage: int,
    *,
    pool: str,
    tasks_max: int,
    bundle_tasks_max: int,
    resend_seconds: float,
) -> list[Message]:
    """Queue up to `tasks_max` ready tasks of a running job; send the messages after the commit.

    A crash before they are sent costs `resend_seconds`: then the bundles are due for `resend`.
    """
    rows = await connection.fetch(_DISPATCH, job_id, stage, tasks_max, bundle_tasks_max, pool, resend_seconds)
    return [Message(**row) for row in rows]


# resend: an unclaimed bundle whose message may be gone is offered again, each time after a longer wait.
_RESEND = """
    UPDATE bundles AS b SET
        sends = least(b.sends + 1, 32767), send_at = now() + $1 * 2 ^ least(b.sends, 6) * interval '1 second'
    FROM (
        SELECT bundle_id FROM bundles WHERE worker_id IS NULL AND send_at <= now()
        ORDER BY send_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ) AS due
    WHERE b.bundle_id = due.bundle_id
    RETURNING b.pool, b.bundle_id, b.job_id, b.stage, b.first, b.count, b.backup_of, b.suspect"""


async def resend(
    connection: Connection | Database, resend_seconds: float, bundles_max: int
) -> list[tuple[str, Message]]:
    """The bundles to offer again, with their pools."""
    rows = await connection.fetch(_RESEND, resend_seconds, bundles_max)
    return [(row["pool"], Message(**{k: v for k, v in row.items() if k != "pool"})) for row in rows]


async def mark_unsent(connection: Connection | Database, bundle_ids: Sequence[UUID]) -> None:
    """SQS did not take the messages of these bundles: offer them again at the next `resend`."""
    await connection.execute(
        "UPDATE bundles SET send_at = now() WHERE bundle_id = ANY($1::uuid[]) AND worker_id IS NULL", bundle_ids
    )


# claim: queued → running. Only the first claim of a bundle finds it unclaimed; attempt + 1 fences every earlier one.
# A bundle that offers a backup starts a second attempt of a running task, on another worker than the first's.
_CLAIM = f"""
    WITH bundle AS (
        UPDATE bundles AS b SET worker_id = $1, claimed_at = now()
        FROM (
            SELECT bundle_id FROM bundles WHERE bundle_id = ANY($2::uuid[]) AND worker_id IS NULL
              AND backup_of IS DISTINCT FROM $1
            ORDER BY bundle_id FOR UPDATE
        ) AS offered WHERE b.bundle_id = offered.bundle_id
        RETURNING b.bundle_id, b.job_id, b.stage, b.first, b.count, b.backup_of
    ), taken AS (
        UPDATE tasks AS t SET state = 'running', attempt = greatest(t.attempt, t.backup_attempt) + 1, worker_id = $1,
            started_at = now(), backup_attempt = NULL, backup_worker_id = NULL, backup_started_at = NULL
        FROM bundle AS b
        WHERE t.job_id = b.job_id AND t.stage = b.stage AND t.index >= b.first AND t.index < b.first + b.count
          AND t.state = 'queued' AND b.backup_of IS NULL
        RETURNING b.bundle_id, t.job_id, t.stage, t.index, t.attempt, t.input
    ), backed_up AS (
        UPDATE tasks AS t SET backup_attempt = t.attempt + 1, backup_worker_id = $1, backup_started_at = now()
        FROM bundle AS b
        WHERE t.job_id = b.job_id AND t.stage = b.stage AND t.index = b.first
          AND t.state = 'running' AND t.worker_id = b.backup_of AND t.backup_attempt IS NULL
        RETURNING b.bundle_id, t.job_id, t.stage, t.index, t.backup_attempt, t.input
    ), counted AS (
        {_count("taken", "$3::smallint", queued="-count(*)", running="count(*)")}
    )
    SELECT bundle_id, job_id, stage, index, attempt, input FROM taken
    UNION ALL SELECT bundle_id, job_id, stage, index, backup_attempt, input FROM backed_up
    ORDER BY job_id, stage, index"""


async def claim(connection: Connection | Database, worker_id: UUID, bundle_ids: Sequence[UUID]) -> list[ClaimedTask]:
    """Take the tasks of those bundles that nobody has claimed; the others (duplicates, cancelled) give nothing."""
    rows = await connection.fetch(_CLAIM, worker_id, bundle_ids, _slot(worker_id))
    return [
        ClaimedTask(bundle_id, job_id, stage, index, attempt, parse_input(value))
        for bundle_id, job_id, stage, index, attempt, value in rows
    ]


_ATTEMPT_COLUMNS = """job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at, run_seconds,
    exit_code, error, bytes_in, bytes_out, records_in, records_out, records_rejected, records_filtered,
    records_added, cpu_seconds, memory_bytes_peak, log"""

# complete: running → succeeded, failed, or ready again. An attempt that no longer holds its task updates nothing.
# A chained stage's success makes the task of the same index in the next stage, in the same statement.
# Of two attempts that race, one that doesn't succeed leaves the task to the other, and is no failure of the task.
# (d asks for `dropped` only for the order of locks: bundles first.)
_RECORDS = ("records_in", "records_out", "records_rejected", "records_filtered", "records_added")
_RACED = "t.backup_worker_id IS NOT NULL"
_BACKUP_REMAINS = f"{_RACED} AND (d.outcome = 'succeeded') = (d.attempt = t.backup_attempt)"  # it wins, or goes on
_COMPLETE = f"""
    WITH dropped AS (
        DELETE FROM bundles AS b USING (
            SELECT bundle_id FROM bundles WHERE bundle_id = ANY($23::uuid[]) AND worker_id = $1
            ORDER BY bundle_id FOR UPDATE
        ) AS done WHERE b.bundle_id = done.bundle_id
        RETURNING b.bundle_id
    ), d AS MATERIALIZED (
        SELECT d.*, s.pool, s.chains, s.output_queue, s.max_attempts, s.backoff_seconds, s.backoff_max_seconds
        FROM unnest($2::uuid[], $3::smallint[], $4::integer[], $5::smallint[], $6::text[], $7::float8[], $8::jsonb[],
                $9::jsonb[], $10::boolean[], $11::integer[], $12::bigint[], $13::bigint[], $14::bigint[],
                $15::bigint[], $16::bigint[], $17::bigint[], $18::bigint[], $19::float8[], $20::bigint[], $21::text[])
            AS d (job_id, stage, index, attempt, outcome, run_seconds, output, error, retryable, exit_code, bytes_in,
                bytes_out, records_in, records_out, records_rejected, records_filtered, records_added, cpu_seconds,
                memory_bytes_peak, log)
        JOIN stages AS s ON s.job_id = d.job_id AND s.stage = d.stage
        WHERE (SELECT count(*) FROM dropped) >= 0
    ), ended AS (
        UPDATE tasks AS t SET
            state = CASE
                WHEN d.outcome = 'succeeded' THEN 'succeeded'
                WHEN {_RACED} THEN 'running'
                WHEN d.outcome = 'released' OR d.retryable AND t.failures + 1 < d.max_attempts THEN 'ready'
                ELSE 'failed' END,
            failures = t.failures + (d.outcome NOT IN ('succeeded', 'released') AND NOT {_RACED})::integer,
            ready_at = CASE
                WHEN d.outcome = 'succeeded' OR {_RACED} THEN NULL
                WHEN d.outcome = 'released' THEN now()
                WHEN d.retryable AND t.failures + 1 < d.max_attempts THEN
                    now() + least(d.backoff_max_seconds, d.backoff_seconds * 2 ^ t.failures)
                        * (0.5 + random() / 2) * interval '1 second'
                END,
            finished_at = CASE
                WHEN d.outcome = 'succeeded' OR d.outcome <> 'released' AND NOT {_RACED}
                    AND NOT (d.retryable AND t.failures + 1 < d.max_attempts) THEN now() END,
            attempt = CASE WHEN {_BACKUP_REMAINS} THEN t.backup_attempt ELSE t.attempt END,
            worker_id = CASE WHEN {_BACKUP_REMAINS} THEN t.backup_worker_id ELSE t.worker_id END,
            started_at = CASE WHEN {_BACKUP_REMAINS} THEN t.backup_started_at ELSE t.started_at END,
            backup_attempt = CASE WHEN {_BACKUP_REMAINS} THEN t.attempt ELSE t.backup_attempt END,
            backup_worker_id = CASE WHEN d.outcome <> 'succeeded' THEN NULL
                WHEN {_BACKUP_REMAINS} THEN t.worker_id ELSE t.backup_worker_id END,
            backup_started_at = CASE WHEN d.outcome <> 'succeeded' THEN NULL
                WHEN {_BACKUP_REMAINS} THEN t.started_at ELSE t.backup_started_at END,
            output = d.output,
            error = d.error
        FROM d
        WHERE t.job_id = d.job_id AND t.stage = d.stage AND t.index = d.index AND t.state = 'running'
          AND (t.attempt = d.attempt AND t.worker_id = $1 OR t.backup_attempt = d.attempt AND t.backup_worker_id = $1)
        RETURNING d.*, t.state, t.backup_attempt AS loser, t.backup_worker_id AS loser_worker_id,
            t.backup_started_at AS loser_started_at
    ), successors AS (
        INSERT INTO tasks (job_id, stage, index, state, ready_at, input)
        SELECT job_id, stage + 1, index, 'ready', now(), {_OUTPUT_AS_INPUT}
        FROM ended WHERE chains AND state = 'succeeded'
        RETURNING job_id, stage
    ), told AS (
        INSERT INTO queue_messages (queue_url, job_id, body)
        SELECT output_queue, job_id, jsonb_build_object('type', 'task.succeeded', 'timestamp', now(), 'data',
            jsonb_build_object('job_id', job_id, 'stage', stage, 'index', index, 'attempt', attempt, 'output', output))
        FROM ended WHERE output_queue IS NOT NULL AND state = 'succeeded'
        ORDER BY job_id, stage, index
    ), recorded AS (
        INSERT INTO attempts ({_ATTEMPT_COLUMNS})
        SELECT job_id, stage, index, attempt, $1, pool, outcome, now() - run_seconds * interval '1 second', now(),
            run_seconds, exit_code, error, bytes_in, bytes_out, records_in, records_out, records_rejected,
            records_filtered, records_added, cpu_seconds, memory_bytes_peak, log
        FROM ended
        UNION ALL SELECT job_id, stage, index, loser, loser_worker_id, pool, 'cancelled', {
    _cut_short("loser_started_at")
}, NULL,
            jsonb_build_object('type', 'overtaken', 'message', format('attempt %s succeeded first', attempt)),
            0, 0, 0, 0, 0, 0, 0, 0, 0, NULL
        FROM ended WHERE loser_worker_id IS NOT NULL
    ), changes AS (
        SELECT job_id, stage, state, run_seconds, (state <> 'running')::integer AS running,
            (outcome <> 'released')::integer AS attempts, state = 'succeeded' AS won,
            records_in, records_out, records_rejected, records_filtered, records_added
        FROM ended
        UNION ALL SELECT job_id, stage, 'ready', NULL, 0, 0, false, 0, 0, 0, 0, 0 FROM successors
    ), counted AS (
        {
    _count(
        "changes",
        "$22::smallint",
        ready="count(*) FILTER (WHERE state = 'ready')",
        running="-sum(running)",
        succeeded="count(*) FILTER (WHERE state = 'succeeded')",
        failed="count(*) FILTER (WHERE state = 'failed')",
        attempts="sum(attempts)",
        busy_seconds="coalesce(sum(run_seconds), 0)",
        **{name: f"coalesce(sum({name}) FILTER (WHERE won), 0)" for name in _RECORDS},
    )
}
    )
    SELECT count(*) FROM ended"""


_FIELDS = [field.name for field in fields(AttemptReport)]  # in the order of _COMPLETE's parameters
_values = attrgetter(*_FIELDS)
_key = attrgetter("job_id", "stage", "index")  # the order of locks


async def complete(
    connection: Connection | Database, worker_id: UUID, finished: Sequence[AttemptReport], bundles_done: Sequence[UUID]
) -> int:
    """End these attempts and drop the bundles of which nothing is left to run; safe to repeat.

    Returns how many attempts still held their task; the others were lost or cancelled and change nothing.
    """
    columns = list(zip(*map(_values, sorted(finished, key=_key)), strict=True)) or [()] * len(_FIELDS)
    accepted: int = await connection.fetchval(_COMPLETE, worker_id, *columns, _slot(worker_id), bundles_done)
    return accepted


# give back: running → ready (or failed, when its worker was lost too often), for whole bundles. A task runs by the
# bundle with whose claim it started: given back alone, it may be claimed anew while its first bundle is still held.
# If only one of two racing attempts is given back, the task goes on with the other.
_GIVE_BACK = f"""
    WITH dropped AS (
        DELETE FROM bundles AS b USING (
            SELECT bundle_id FROM bundles WHERE {{bundles}} ORDER BY job_id, stage, first FOR UPDATE SKIP LOCKED
        ) AS gone WHERE b.bundle_id = gone.bundle_id
        RETURNING b.job_id, b.stage, b.first, b.count, b.worker_id, b.claimed_at, b.pool
    ), cut_off AS MATERIALIZED (
        SELECT t.job_id, t.stage, t.index, d.pool, d.worker_id, d.claimed_at, t.worker_id = d.worker_id AS is_first,
            CASE WHEN t.worker_id = d.worker_id THEN t.attempt ELSE t.backup_attempt END AS attempt
        FROM dropped AS d JOIN tasks AS t ON t.job_id = d.job_id AND t.stage = d.stage
            AND t.index >= d.first AND t.index < d.first + d.count
        WHERE t.state = 'running' AND {_runs_by("d")}
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
        INSERT INTO attempts ({_ATTEMPT_COLUMNS})
        SELECT job_id, stage, index, attempt, worker_id, pool, $1, {_cut_short("claimed_at")}, NULL, error,
            0, 0, 0, 0, 0, 0, 0, 0, 0, NULL
        FROM explained
    ), counted AS (
        {
    _count(
        "back",
        str(SCHEDULER_SLOT),
        running="-count(*)",
        ready="count(*) FILTER (WHERE state = 'ready')",
        failed="count(*) FILTER (WHERE state = 'failed')",
    )
}
    )
    SELECT count(*) FROM cut_off"""

_GIVE_BACK_DEAD = _GIVE_BACK.format(
    bundles="""worker_id IN (
        SELECT b.worker_id FROM bundles AS b LEFT JOIN workers AS w USING (worker_id)
        WHERE b.worker_id IS NOT NULL AND coalesce(w.state, 'lost') IN ('lost', 'stopped'))"""
)
_GIVE_BACK_NAMED = _GIVE_BACK.format(bundles="bundle_id = ANY($3::uuid[]) AND worker_id = $4")


async def reap_dead_workers(connection: Connection | Database, losses_max: int) -> int:
    """Give the running tasks of lost and stopped workers back; returns how many attempts that cuts off.

    It counts as no failure of the task, but after `losses_max` losses the task fails: it may kill its workers.
    """
    count: int = await connection.fetchval(_GIVE_BACK_DEAD, "lost", losses_max)
    return count


async def abandon(connection: Connection | Database, worker_id: UUID, bundle_ids: Sequence[UUID]) -> int:
    """Give back what a worker holds without knowing it (the reply of its claim was lost); returns how many attempts."""
    count: int = await connection.fetchval(_GIVE_BACK_NAMED, "released", 0, bundle_ids, worker_id)
    return count


# overdue: a worker that beats but hangs. Its own timeout comes first; this is the net below it, with slack for bundles.
_OVERDUE = """
    SELECT b.bundle_id, b.worker_id FROM bundles AS b JOIN stages AS s USING (job_id, stage)
    WHERE b.worker_id IS NOT NULL
      AND b.claimed_at < now() - (s.timeout_seconds * b.count + $1) * interval '1 second' LIMIT 1000"""


async def reap_overdue(connection: Connection | Database, slack_seconds: float, losses_max: int) -> int:
    """Give back bundles held longer than all their tasks' timeouts together; returns how many attempts."""
    count = 0
    for row in await connection.fetch(_OVERDUE, slack_seconds):
        count += await connection.fetchval(_GIVE_BACK_NAMED, "lost", losses_max, [row["bundle_id"]], row["worker_id"])
    return count


# withdraw: queued → ready, for the unclaimed bundles of a job or a pool that is paused.
_WITHDRAW = f"""
    WITH dropped AS (
        DELETE FROM bundles AS b USING (
            SELECT bundle_id FROM bundles WHERE worker_id IS NULL AND (job_id = $1 OR pool = $2)
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
        {_count("back", str(SCHEDULER_SLOT), queued="-count(*)", ready="count(*)")}
    )
    SELECT count(*) FROM back"""


async def withdraw(connection: Connection, *, job_id: UUID | None = None, pool: str | None = None) -> int:
    """Take back what is queued but not claimed; its messages become duplicates that claim nothing."""
    count: int = await connection.fetchval(_WITHDRAW, job_id, pool)
    return count


# cancel: every task of an ending job that is not terminal → cancelled: what bundles hold, and what is ready.
_LOCK_ENDING = "SELECT job_id FROM jobs WHERE job_id = $1 AND state IN ('cancelling', 'failing') FOR UPDATE"

# Locked by a statement of its own: what a claim that was under way has changed, only the next one is sure to see.
_LOCK_BUNDLES = """
    SELECT bundle_id FROM bundles WHERE job_id = $1 AND backup_of IS NULL
    ORDER BY stage, first LIMIT $2 FOR UPDATE SKIP LOCKED"""

_CANCEL_BACKUPS = _GIVE_BACK.format(bundles="job_id = $3 AND backup_of IS NOT NULL")

_CANCEL_BUNDLED = f"""
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
        INSERT INTO attempts ({_ATTEMPT_COLUMNS})
        SELECT job_id, stage, index, a.attempt, a.worker_id, pool, 'cancelled', {
    _cut_short("a.started_at")
}, NULL, NULL,
            0, 0, 0, 0, 0, 0, 0, 0, 0, NULL
        FROM cancelled AS c CROSS JOIN LATERAL (
            VALUES (attempt, worker_id, started_at), (backup_attempt, backup_worker_id, backup_started_at)
        ) AS a (attempt, worker_id, started_at)
        WHERE c.worker_id IS NOT NULL AND a.worker_id IS NOT NULL
    )
    {
    _count(
        "cancelled",
        str(SCHEDULER_SLOT),
        queued="-count(*) FILTER (WHERE worker_id IS NULL)",
        running="-count(*) FILTER (WHERE worker_id IS NOT NULL)",
        cancelled="count(*)",
    )
}"""

_CANCEL_READY = f"""
    WITH rest AS MATERIALIZED (
        SELECT job_id, stage, index FROM tasks WHERE job_id = $1 AND ready_at IS NOT NULL LIMIT $2
    ), cancelled AS (
        UPDATE tasks AS t SET state = 'cancelled', ready_at = NULL, finished_at = now()
        FROM rest AS r
        WHERE t.job_id = r.job_id AND t.stage = r.stage AND t.index = r.index AND t.state = 'ready'
        RETURNING t.job_id, t.stage
    )
    {_count("cancelled", str(SCHEDULER_SLOT), ready="-count(*)", cancelled="count(*)")}"""

_ANY_LEFT = """
    SELECT EXISTS (SELECT FROM bundles WHERE job_id = $1)
        OR EXISTS (SELECT FROM tasks WHERE job_id = $1 AND ready_at IS NOT NULL)"""


async def cancel_tasks(connection: Connection, job_id: UUID, tasks_max: int) -> bool:
    """Cancel a part of what is not terminal of a job that is cancelling or failing; True when nothing is left.

    In that state nothing new is planned or dispatched. Workers learn from their heartbeats that the bundles are gone.
    """
    async with connection.transaction():
        if not await connection.fetchval(_LOCK_ENDING, job_id):
            return True
        await connection.execute(_CANCEL_BACKUPS, "cancelled", 0, job_id)
        bundles = await connection.fetch(_LOCK_BUNDLES, job_id, tasks_max)
        await connection.execute(_CANCEL_BUNDLED, [bundle["bundle_id"] for bundle in bundles])
        await connection.execute(_CANCEL_READY, job_id, tasks_max)
        return not await connection.fetchval(_ANY_LEFT, job_id)


# backup: a bundle that has been held for far longer than its tasks should take offers each that still runs once more.
_OFFER_BACKUPS = """
    WITH job AS (
        SELECT job_id FROM jobs WHERE job_id = $1 AND state = 'running' FOR SHARE
    ), slow AS MATERIALIZED (
        SELECT bundle_id, pool, job_id, stage, first, count, worker_id, claimed_at FROM bundles
        WHERE job_id = (SELECT job_id FROM job) AND stage = $2 AND worker_id IS NOT NULL
          AND NOT backed_up AND backup_of IS NULL
          AND claimed_at < now() - greatest($3, $4 * count) * interval '1 second'
        ORDER BY claimed_at, first LIMIT $5 FOR UPDATE SKIP LOCKED
    ), marked AS (
        UPDATE bundles AS b SET backed_up = true FROM slow WHERE b.bundle_id = slow.bundle_id
    )
    INSERT INTO bundles (bundle_id, pool, job_id, stage, first, count, send_at, backup_of)
    SELECT gen_random_uuid(), b.pool, b.job_id, b.stage, t.index, 1, now() + $6 * interval '1 second', b.worker_id
    FROM slow AS b JOIN tasks AS t ON t.job_id = b.job_id AND t.stage = b.stage
        AND t.index >= b.first AND t.index < b.first + b.count
    WHERE t.state = 'running' AND t.worker_id = b.worker_id AND t.started_at = b.claimed_at
      AND t.backup_attempt IS NULL
    RETURNING bundle_id, job_id, stage, first, count, backup_of"""


async def offer_backups(
    connection: Connection | Database,
    job_id: UUID,
    stage: int,
    *,
    seconds_min: float,
    task_seconds_max: float,
    bundles_max: int,
    resend_seconds: float,
) -> list[Message]:
    """Offer a second attempt of what runs in bundles held for `seconds_min` and `task_seconds_max` a task or longer.

    Send the messages after the commit, as those of `dispatch`.
    """
    arguments = (seconds_min, task_seconds_max, bundles_max, resend_seconds)
    return [Message(**row) for row in await connection.fetch(_OFFER_BACKUPS, job_id, stage, *arguments)]


# settle: bundles by which nothing runs any more, since the other attempt has won. Their workers learn it by heartbeat.
_LOCK_RACED = """
    SELECT bundle_id FROM bundles WHERE backed_up OR backup_of IS NOT NULL
    ORDER BY bundle_id LIMIT 1000 FOR UPDATE SKIP LOCKED"""

_DROP_SETTLED = f"""
    DELETE FROM bundles AS b
    WHERE bundle_id = ANY($1::uuid[]) AND NOT EXISTS (
        SELECT FROM tasks AS t
        WHERE t.job_id = b.job_id AND t.stage = b.stage AND t.index >= b.first AND t.index < b.first + b.count
          AND t.state = 'running' AND CASE WHEN b.worker_id IS NULL
            THEN t.worker_id = b.backup_of AND t.backup_attempt IS NULL
            ELSE {_runs_by("b")} END)"""


async def settle_races(connection: Connection) -> None:
    """Free the losers of races that are over: delete their bundles, and offers of backups that nobody needs now."""
    async with connection.transaction():
        raced = await connection.fetch(_LOCK_RACED)
        await connection.execute(_DROP_SETTLED, [bundle["bundle_id"] for bundle in raced])


# retry: failed and cancelled → ready, by the user's order, with all attempts allowed again.
_RETRY = f"""
    WITH again AS (
        UPDATE tasks SET state = 'ready', ready_at = now(), failures = 0, losses = 0, error = NULL, finished_at = NULL
        FROM (SELECT unnest(ARRAY['failed', 'cancelled']) AS was) AS states
        WHERE job_id = $1 AND state = was
          AND stage IN (SELECT stage FROM stages WHERE job_id = $1 AND state = 'running')
        RETURNING job_id, stage, was
    ), counted AS (
        {
    _count(
        "again",
        str(SCHEDULER_SLOT),
        ready="count(*)",
        failed="-count(*) FILTER (WHERE was = 'failed')",
        cancelled="-count(*) FILTER (WHERE was = 'cancelled')",
    )
}
    )
    SELECT count(*) FROM again"""


async def retry_tasks(connection: Connection, job_id: UUID) -> int:
    """Make the failed and cancelled tasks of a job's running stages ready again; returns how many."""
    count: int = await connection.fetchval(_RETRY, job_id)
    return count


# Workers.
