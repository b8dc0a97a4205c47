"""The statistics of workers and pools over the last minutes.

The window starts with a whole minute, `minutes` or up to a minute more ago, so that worker_minutes fills it exactly.
"""

from services.engine.pool_tasks import count_tasks
from services.platform.database import Database
from services.stats.shapes import PoolStatsList, Timeline, WorkerStatsList

_WORKER_STATS = """
    SELECT worker_id, pool, hostname, state, slots, busy, heartbeat_at, tasks_succeeded, tasks_failed,
        coalesce(busy_seconds / nullif(slot_seconds, 0), 0) AS busy_share
    FROM workers_since(date_trunc('minute', now() - $1 * interval '1 minute'))
    WHERE $2::text IS NULL OR pool = $2 ORDER BY pool, hostname, worker_id"""

# Attempts count by the pool they ran in, which also has those of workers that are gone from the table.
_POOL_STATS = """
    WITH pool_minutes AS (
        SELECT pool, sum(succeeded) AS succeeded, sum(failed) AS failed FROM worker_minutes
        WHERE minute >= date_trunc('minute', now() - $1 * interval '1 minute') GROUP BY pool
    ), pool_workers AS (
        SELECT pool, count(*) FILTER (WHERE live) AS workers_live, sum(slots) FILTER (WHERE live) AS slots,
            sum(busy) FILTER (WHERE live) AS busy,
            coalesce(sum(busy_seconds) / nullif(sum(slot_seconds), 0), 0) AS busy_share
        FROM workers_since(date_trunc('minute', now() - $1 * interval '1 minute')) GROUP BY pool
    )
    SELECT p.name AS pool, coalesce(workers_live, 0) AS workers_live, coalesce(w.slots, 0) AS slots,
        coalesce(w.busy, 0) AS busy, coalesce(busy_share, 0) AS busy_share,
        coalesce(m.succeeded, 0)::bigint AS tasks_succeeded, coalesce(m.failed, 0)::bigint AS tasks_failed
    FROM pools AS p LEFT JOIN pool_workers AS w ON w.pool = p.name LEFT JOIN pool_minutes AS m ON m.pool = p.name
    ORDER BY p.name"""

_TIMELINE = """
    SELECT minute, sum(succeeded)::bigint AS succeeded, sum(failed)::bigint AS failed,
        sum(busy_seconds) AS busy_seconds, sum(bytes_in)::bigint AS bytes_in, sum(bytes_out)::bigint AS bytes_out
    FROM worker_minutes
    WHERE minute >= date_trunc('minute', now() - $1 * interval '1 minute') AND ($2::text IS NULL OR pool = $2)
    GROUP BY minute ORDER BY minute"""


async def read_worker_stats(database: Database, minutes: int, of_pool: str | None) -> WorkerStatsList:
    """The workers, of one pool or of all, that lived in the window."""
    rows = await database.fetch(_WORKER_STATS, minutes, of_pool)
    return WorkerStatsList.model_validate({"items": [dict(row) for row in rows]})


async def read_pool_stats(database: Database, minutes: int) -> PoolStatsList:
    rows = await database.fetch(_POOL_STATS, minutes)
    tasks = await count_tasks(database)
    backlog = {pool: of_pool["ready"] + of_pool["queued"] for pool, of_pool in tasks.items()}
    return PoolStatsList.model_validate({"items": [{**row, "backlog": backlog.get(row["pool"], 0)} for row in rows]})


async def read_timeline(database: Database, minutes: int, of_pool: str | None) -> Timeline:
    """The minutes of all jobs together, in one pool or in all."""
    rows = await database.fetch(_TIMELINE, minutes, of_pool)
    return Timeline.model_validate({"items": [dict(row) for row in rows]})
