"""A database of a grid that has been at work for long: jobs, tasks and attempts by SQL, without running any."""

from dataclasses import dataclass

import asyncpg

_PARTS = (
    "INSERT INTO pools (name, queue_url, dead_letter_url) VALUES ('default', 'queue', 'dead') ON CONFLICT DO NOTHING",
    """INSERT INTO processors (name, version, spec) VALUES ('noop', 1, '{"builtin": "noop"}') ON CONFLICT DO NOTHING""",
)

# Jobs of the past months, one stage each, spread evenly; those numbered below $2 are running: they are the newest.
_JOBS = """
    INSERT INTO jobs (job_id, name, spec, state, labels, priority, share, created_at, started_at, finished_at)
    SELECT overlay(first_job_at(at)::text PLACING '7' || lpad(to_hex(n % 4096), 3, '0') || '-8000-'
            || lpad(to_hex(n), 12, '0') FROM 15)::uuid, 'job-' || n % 1000,
        jsonb_build_object('input', jsonb_build_object('type', 'range', 'count', 1), 'stages', '[]'::jsonb),
        CASE WHEN n < $2 THEN 'running' WHEN n % 100 = 0 THEN 'failed' ELSE 'succeeded' END,
        jsonb_build_object('team', 'team-' || n % 50), 0, 'share-' || n % 10, at, at,
        CASE WHEN n >= $2 THEN at + interval '1 minute' END
    FROM generate_series(0, $1::integer - 1) AS n
    CROSS JOIN LATERAL (SELECT now() - interval '1 minute' - n * ($3 * interval '1 day') / $1 AS at) AS of"""

_STAGES = """
    INSERT INTO stages (job_id, stage, name, kind, processor, processor_version, pool, tasks_from, state, planned,
        task_count, max_attempts, backoff_seconds, backoff_max_seconds, timeout_seconds, tolerated_failures, options)
    SELECT job_id, 0, 'main', 'map', 'noop', 1, 'default', 'input',
        CASE WHEN state = 'running' THEN 'running' ELSE 'succeeded' END, true, $1::integer, 3, 1, 60, 3600, 0, '{}'
    FROM jobs"""

_TASKS = """
    INSERT INTO tasks (job_id, stage, index, state, attempt, worker_id, ready_at, queued_at, started_at, finished_at,
        input, output)
    SELECT job_id, 0, index, CASE WHEN ended THEN 'succeeded' ELSE 'ready' END, ended::integer,
        CASE WHEN ended THEN job_id END, CASE WHEN NOT ended THEN created_at END, created_at,
        CASE WHEN ended THEN created_at END, CASE WHEN ended THEN created_at END,
        jsonb_build_object('type', 'object', 'uri', 's3://bucket/raw/2026/part-' || index || '.parquet'),
        CASE WHEN ended THEN jsonb_build_object('uri', 's3://bucket/jobs/' || job_id || '/0/' || index || '/1/out.csv',
            'bytes', 1048576, 'crc32', index) END
    FROM (SELECT *, finished_at IS NOT NULL AS ended FROM jobs) AS j
    CROSS JOIN generate_series(0, $1::integer - 1) AS index"""

_ATTEMPTS = """
    INSERT INTO attempts (job_id, stage, index, attempt, worker_id, pool, outcome, started_at, finished_at, run_seconds,
        bytes_in, bytes_out, log)
    SELECT job_id, stage, index, 1, worker_id, 'default', 'succeeded', started_at, finished_at, 1, 1048576, 1048576,
        's3://bucket/jobs/' || job_id || '/0/' || index || '/1/log.txt'
    FROM tasks WHERE state = 'succeeded'"""

# As many shards as workers have had a hand in it.
_COUNTERS = """
    INSERT INTO stage_counters (job_id, stage, slot, ready, succeeded, attempts, busy_seconds)
    SELECT job_id, 0, slot, CASE WHEN finished_at IS NULL AND slot = 0 THEN $1::integer ELSE 0 END,
        CASE WHEN finished_at IS NOT NULL AND slot = 0 THEN $1::integer ELSE 0 END, 1, 1
    FROM jobs CROSS JOIN generate_series(0, CASE WHEN finished_at IS NULL THEN $2::integer ELSE 1 END) AS slot"""

_ROLLED_UP = """
    INSERT INTO stage_stats SELECT job_id, 0, 'succeeded', 1, '{1}', 1, 1, 1, 1, 1, 1, 1, 1, 0 FROM jobs
    WHERE finished_at IS NOT NULL"""


@dataclass(frozen=True)
class Amounts:
    """How much of everything there is."""

    jobs: int
    running: int
    tasks: int  # of each job
    shards: int = 4  # of a running stage's counters
    days: float = 90  # in which the jobs were submitted


async def seed(connection: asyncpg.Connection, amounts: Amounts) -> None:
    """Fill a migrated, empty database; months before its own get partitions, as if it had been there then."""
    for statement in _PARTS:
        await connection.execute(statement)
    await make_months_before(connection, amounts.days)
    await connection.execute(_JOBS, amounts.jobs, amounts.running, amounts.days)
    await connection.execute(_STAGES, amounts.tasks)
    await connection.execute(_TASKS, amounts.tasks)
    await connection.execute(_COUNTERS, amounts.tasks, amounts.shards)
    await connection.execute(_ATTEMPTS)
    await connection.execute(_ROLLED_UP)
    await connection.execute("UPDATE stats_watermark SET txid = pg_current_xact_id()")
    await connection.execute("VACUUM ANALYZE")


async def make_months_before(connection: asyncpg.Connection, days: float) -> None:
    """The partition of what was before all months gives way, unless it is gone already."""
    oldest = await connection.fetchval("SELECT date_trunc('month', now() - $1 * interval '1 day', 'UTC')", days)
    until = await connection.fetchval("SELECT first_job_at($1)", oldest)
    firsts = await connection.fetch("SELECT of_table, partition FROM job_partitions WHERE month = 'first'")
    for table, partition in firsts:
        await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {partition}")
        await connection.execute(
            f"ALTER TABLE {table} ATTACH PARTITION {partition} FOR VALUES FROM (MINVALUE) TO ('{until}')"
        )
    await connection.execute(
        "SELECT make_partition(of_table, month) FROM unnest(partitioned_tables()) AS of_table "
        "CROSS JOIN generate_series($1, now(), interval '1 month', 'UTC') AS month",
        oldest,
    )
