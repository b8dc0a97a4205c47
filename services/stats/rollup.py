"""The roll-up: adds each attempt once to the totals of its stage and pool and to the minutes it ran in.

An attempt's row carries its transaction's id. Transactions before the oldest one that runs have all ended, so the rows
between the watermark and it are complete and never seen again, in whatever order their transactions committed.
The totals and the watermark change in one transaction, under the watermark's lock: a crash undoes both, and a second
instance of the service skips what the first one does.
"""

import asyncio
from datetime import datetime
from typing import Any

import structlog

from services.engine.prices import list_prices
from services.platform.concurrency import is_cancelled
from services.platform.database import LONG_SECONDS, Database
from services.platform.health import VITALS
from services.stats.histogram import INNER_BOUNDS

ATTEMPTS_MAX = 20_000  # of one roll-up, give or take one transaction's
BUSY_SECONDS = 1.0
IDLE_SECONDS = 5.0
RETENTION_DAYS = 30  # of the minutes; the totals stay
COST_DAYS = 400
PRUNE_SECONDS = 600.0
PRUNE_ROWS_MAX = 10_000

log = structlog.get_logger()

_LOCK = "SELECT txid, rolled_up_at, mark_txid, mark_at FROM stats_watermark FOR UPDATE SKIP LOCKED"

# A statement of its own, after the lock: its snapshot is newer than that of whoever moved the watermark last.
_HORIZON = """
    SELECT pg_current_xact_id() AS own, oldest AS horizon, now() AS began_at,
        (SELECT txid FROM attempts WHERE txid >= $1 AND txid < oldest ORDER BY txid OFFSET $2 LIMIT 1) AS last
    FROM oldest_transaction() AS oldest"""

# An attempt pays for the part of its node that it kept from others: the largest share of what its stage asks for, of
# cores and memory a slot's share if it does not say (services/contract/resources.py). It is a slot's share if the stage
# asks for nothing or is gone, or the worker, of a release before, does not say what its node has.
# An attempt's time is spread over the minutes it ran in: a task of two hours is not a burst in its last minute. No
# attempt, whatever its row says, makes more minutes than are kept ($4 seconds). Busy time is what workers measured: a
# lost, released or cancelled attempt may only have waited in its bundle.
_ROLL_UP = """
    WITH batch AS MATERIALIZED (
        SELECT a.job_id, a.stage, a.pool, coalesce(a.worker_id, '00000000-0000-0000-0000-000000000000') AS worker_id,
            outcome, finished_at, least(greatest(run_seconds, 0), $4::float8) AS run_seconds,
            width_bucket(run_seconds, $3::float8[]) + 1 AS bucket,
            cpu_seconds, memory_bytes_peak, bytes_in, bytes_out, records_in, records_out, records_rejected,
            index, coalesce(fetch_seconds, 0) AS fetch_seconds, coalesce(put_seconds, 0) AS put_seconds,
            outcome NOT IN ('lost', 'released', 'cancelled') AS measured,
            CASE WHEN outcome NOT IN ('lost', 'released', 'cancelled') THEN CASE w.market
                WHEN 'spot' THEN p.spot_price_per_hour ELSE coalesce(p.price_per_hour, l.price) END * part.share / 3600
            END AS price
        FROM attempts AS a LEFT JOIN workers AS w ON w.worker_id = a.worker_id LEFT JOIN pools AS p ON p.name = a.pool
        LEFT JOIN LATERAL (
            SELECT needs FROM stages WHERE stages.job_id = a.job_id AND stages.stage = a.stage
        ) AS s ON true
        LEFT JOIN unnest($5::text[], $6::float8[]) AS l (instance_type, price) USING (instance_type)
        CROSS JOIN LATERAL (
            SELECT CASE WHEN s.needs IS NULL OR w.cpus IS NULL THEN 1.0 / w.slots ELSE least(1, greatest(
                coalesce((s.needs ->> 'cpus')::float8 / nullif(w.cpus, 0), 1.0 / w.slots),
                coalesce((s.needs ->> 'memory')::float8 / nullif(w.memory, 0), 1.0 / w.slots),
                (s.needs ->> 'gpus')::float8 / nullif(w.gpus, 0),
                (s.needs ->> 'disk')::float8 / nullif(w.disk, 0)
            )) END AS share
        ) AS part
        WHERE txid >= $1 AND txid < $2
    ), minutes AS MATERIALIZED (
        SELECT job_id, stage, pool, worker_id, minute,
            ended AND outcome = 'succeeded' AS succeeded,
            ended AND outcome IN ('failed', 'timeout', 'memory', 'lost') AS failed,
            CASE WHEN measured THEN
                extract(epoch FROM least(finished_at, minute + interval '1 minute')
                    - greatest(finished_at - run_seconds * interval '1 second', minute))::float8
                ELSE 0 END AS busy_seconds,
            CASE WHEN ended AND outcome = 'succeeded' THEN bytes_in ELSE 0 END AS bytes_in,
            CASE WHEN ended AND outcome = 'succeeded' THEN bytes_out ELSE 0 END AS bytes_out
        FROM batch CROSS JOIN LATERAL (
            SELECT minute, minute = date_trunc('minute', finished_at) AS ended
            FROM generate_series(date_trunc('minute', finished_at - run_seconds * interval '1 second'), finished_at,
                interval '1 minute') AS minute
        ) AS lived
    ), by_stage AS (
        INSERT INTO stage_stats AS t (job_id, stage, outcome, attempts, histogram, run_seconds, run_seconds_max,
            cpu_seconds, memory_bytes_peak, bytes_in, bytes_out, records_in, records_out, records_rejected,
            fetch_seconds, put_seconds, last_finished_at, last_index, priced_seconds, cost)
        SELECT job_id, stage, outcome, count(*), histogram_of(array_agg(bucket)), sum(run_seconds), max(run_seconds),
            sum(cpu_seconds), max(memory_bytes_peak), sum(bytes_in), sum(bytes_out), sum(records_in), sum(records_out),
            sum(records_rejected), sum(fetch_seconds), sum(put_seconds), max(finished_at),
            (array_agg(index ORDER BY finished_at DESC, index DESC))[1],
            coalesce(sum(run_seconds) FILTER (WHERE price IS NOT NULL), 0), coalesce(sum(run_seconds * price), 0)
        FROM batch GROUP BY job_id, stage, outcome
        ON CONFLICT (job_id, stage, outcome) DO UPDATE SET
            attempts = t.attempts + excluded.attempts,
            histogram = histogram_add(t.histogram, excluded.histogram),
            run_seconds = t.run_seconds + excluded.run_seconds,
            run_seconds_max = greatest(t.run_seconds_max, excluded.run_seconds_max),
            cpu_seconds = t.cpu_seconds + excluded.cpu_seconds,
            memory_bytes_peak = greatest(t.memory_bytes_peak, excluded.memory_bytes_peak),
            bytes_in = t.bytes_in + excluded.bytes_in,
            bytes_out = t.bytes_out + excluded.bytes_out,
            records_in = t.records_in + excluded.records_in,
            records_out = t.records_out + excluded.records_out,
            records_rejected = t.records_rejected + excluded.records_rejected,
            fetch_seconds = t.fetch_seconds + excluded.fetch_seconds,
            put_seconds = t.put_seconds + excluded.put_seconds,
            last_finished_at = greatest(t.last_finished_at, excluded.last_finished_at),
            last_index = CASE WHEN (t.last_finished_at, t.last_index) > (excluded.last_finished_at, excluded.last_index)
                THEN t.last_index ELSE excluded.last_index END,
            priced_seconds = t.priced_seconds + excluded.priced_seconds,
            cost = t.cost + excluded.cost
    ), by_job_and_day AS (
        SELECT (finished_at AT TIME ZONE 'UTC')::date AS day, pool, job_id, count(*) AS attempts,
            sum(run_seconds) AS run_seconds, sum(run_seconds) FILTER (WHERE price IS NOT NULL) AS priced_seconds,
            sum(run_seconds * price) AS cost
        FROM batch WHERE measured GROUP BY 1, pool, job_id
    ), by_day AS (
        INSERT INTO cost_days AS t (day, pool, labels_md5, labels, attempts, run_seconds, priced_seconds, cost)
        SELECT day, pool, md5(labels::text), labels, sum(attempts), sum(run_seconds),
            coalesce(sum(priced_seconds), 0), coalesce(sum(cost), 0)
        FROM by_job_and_day AS b
        CROSS JOIN LATERAL (SELECT coalesce((SELECT labels FROM jobs WHERE job_id = b.job_id), '{}') AS labels) AS j
        GROUP BY day, pool, labels
        ON CONFLICT (day, pool, labels_md5) DO UPDATE SET
            attempts = t.attempts + excluded.attempts,
            run_seconds = t.run_seconds + excluded.run_seconds,
            priced_seconds = t.priced_seconds + excluded.priced_seconds,
            cost = t.cost + excluded.cost
    ), by_pool AS (
        INSERT INTO pool_stats AS t (pool, outcome, attempts, histogram, run_seconds, run_seconds_max,
            cpu_seconds, memory_bytes_peak, bytes_in, bytes_out, records_in, records_out, records_rejected)
        SELECT pool, outcome, count(*), histogram_of(array_agg(bucket)), sum(run_seconds), max(run_seconds),
            sum(cpu_seconds), max(memory_bytes_peak), sum(bytes_in), sum(bytes_out), sum(records_in), sum(records_out),
            sum(records_rejected)
        FROM batch GROUP BY pool, outcome
        ON CONFLICT (pool, outcome) DO UPDATE SET
            attempts = t.attempts + excluded.attempts,
            histogram = histogram_add(t.histogram, excluded.histogram),
            run_seconds = t.run_seconds + excluded.run_seconds,
            run_seconds_max = greatest(t.run_seconds_max, excluded.run_seconds_max),
            cpu_seconds = t.cpu_seconds + excluded.cpu_seconds,
            memory_bytes_peak = greatest(t.memory_bytes_peak, excluded.memory_bytes_peak),
            bytes_in = t.bytes_in + excluded.bytes_in,
            bytes_out = t.bytes_out + excluded.bytes_out,
            records_in = t.records_in + excluded.records_in,
            records_out = t.records_out + excluded.records_out,
            records_rejected = t.records_rejected + excluded.records_rejected
    ), by_stage_minute AS (
        INSERT INTO stage_minutes AS t (job_id, stage, minute, succeeded, failed, busy_seconds, bytes_in, bytes_out)
        SELECT job_id, stage, minute, count(*) FILTER (WHERE succeeded), count(*) FILTER (WHERE failed),
            sum(busy_seconds), sum(bytes_in), sum(bytes_out)
        FROM minutes GROUP BY job_id, stage, minute
        ON CONFLICT (job_id, stage, minute) DO UPDATE SET
            succeeded = t.succeeded + excluded.succeeded,
            failed = t.failed + excluded.failed,
            busy_seconds = t.busy_seconds + excluded.busy_seconds,
            bytes_in = t.bytes_in + excluded.bytes_in,
            bytes_out = t.bytes_out + excluded.bytes_out
    ), by_worker_minute AS (
        INSERT INTO worker_minutes AS t (minute, pool, worker_id, succeeded, failed, busy_seconds, bytes_in, bytes_out)
        SELECT minute, pool, worker_id, count(*) FILTER (WHERE succeeded), count(*) FILTER (WHERE failed),
            sum(busy_seconds), sum(bytes_in), sum(bytes_out)
        FROM minutes GROUP BY minute, pool, worker_id
        ON CONFLICT (minute, pool, worker_id) DO UPDATE SET
            succeeded = t.succeeded + excluded.succeeded,
            failed = t.failed + excluded.failed,
            busy_seconds = t.busy_seconds + excluded.busy_seconds,
            bytes_in = t.bytes_in + excluded.bytes_in,
            bytes_out = t.bytes_out + excluded.bytes_out
    )
    SELECT count(*) FROM batch"""

_MOVE = "UPDATE stats_watermark SET txid = $1, rolled_up_at = $2, mark_txid = $3, mark_at = $4"


class WatermarkAhead(RuntimeError):
    """The database's transaction ids have gone back below the watermark: it was restored from a dump."""


async def roll_up(database: Database, attempts_max: int = ATTEMPTS_MAX) -> int | None:
    """Roll up the oldest attempts, about `attempts_max` of them; returns how many, None if another instance does it.

    Raises WatermarkAhead.
    """
    async with database.acquire() as connection, connection.transaction():
        await connection.execute("SET LOCAL jit = off")  # it would compile longer than the statement runs
        watermark = await connection.fetchrow(_LOCK)
        if watermark is None:
            return None
        limit = await connection.fetchrow(_HORIZON, watermark["txid"], attempts_max - 1)
        assert limit is not None
        if limit["horizon"] < watermark["txid"]:
            raise WatermarkAhead(
                f"transaction {limit['own']} is below the roll-up's watermark {watermark['txid']}: after a restore "
                "from a dump, run `python -m services.engine.restore`"
            )
        end: int = limit["horizon"] if limit["last"] is None else limit["last"] + 1
        prices = list_prices().instance_hour
        count: int = await connection.fetchval(
            _ROLL_UP,
            watermark["txid"],
            end,
            INNER_BOUNDS,
            float(RETENTION_DAYS * 86_400),
            list(prices),
            list(prices.values()),
            timeout=LONG_SECONDS,
        )
        await connection.execute(_MOVE, end, *_freshness(watermark, end, limit["own"], limit["began_at"]))
        return count


def _freshness(watermark: Any, end: int, own: int, began_at: datetime) -> tuple[datetime, int, datetime]:
    """The new rolled_up_at, mark_txid and mark_at.

    What committed before this transaction began has an id below its `own`. If an older transaction still runs, `end`
    is lower than that; then the mark remembers what this roll-up will have been worth once `end` has passed it.
    """
    if end >= own:
        return began_at, own, began_at
    if end >= watermark["mark_txid"]:
        return watermark["mark_at"], own, began_at
    return watermark["rolled_up_at"], watermark["mark_txid"], watermark["mark_at"]


_PRUNE = (
    """DELETE FROM stage_minutes WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM stage_minutes WHERE minute < now() - $1 * interval '1 day'
        LIMIT $2 FOR UPDATE SKIP LOCKED))""",
    """DELETE FROM worker_minutes WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM worker_minutes WHERE minute < now() - $1 * interval '1 day'
        LIMIT $2 FOR UPDATE SKIP LOCKED))""",
)
_PRUNE_COSTS = """
    DELETE FROM cost_days WHERE ctid = ANY(ARRAY(
        SELECT ctid FROM cost_days WHERE day < now() - $1 * interval '1 day' LIMIT $2 FOR UPDATE SKIP LOCKED))"""


async def prune(database: Database, retention_days: int = RETENTION_DAYS, rows_max: int = PRUNE_ROWS_MAX) -> int:
    """Delete minutes older than the retention, and days of costs, in short transactions; returns how many rows."""
    total = 0
    for statement, days in (*((minutes, retention_days) for minutes in _PRUNE), (_PRUNE_COSTS, COST_DAYS)):
        deleted = rows_max
        while deleted == rows_max:
            status = await database.execute(statement, days, rows_max, timeout=LONG_SECONDS)
            deleted = int(status.removeprefix("DELETE "))
            total += deleted
    return total


async def keep_rolled_up(database: Database) -> None:
    """Roll up for ever: at once while there is a backlog, every second while attempts come in, else more rarely."""
    clock = asyncio.get_running_loop().time
    pulse = VITALS.pulse("roll-up", IDLE_SECONDS)
    prune_at = clock()
    while not is_cancelled():
        count: int | None = None
        try:
            with pulse.step():
                count = await roll_up(database)
                if clock() >= prune_at:
                    await prune(database)
                    prune_at = clock() + PRUNE_SECONDS
            pulse.succeeded()
        except Exception as error:  # the database may be away; whatever it is, the next round tries again
            pulse.failed(error)
            log.warning("roll-up failed", error=repr(error))
        if count is None or count < ATTEMPTS_MAX:
            await asyncio.sleep(BUSY_SECONDS if count else IDLE_SECONDS)
