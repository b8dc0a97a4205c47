"""Rows that expired jobs leave to their month: it is dropped as a whole, which takes no time however many there are.

A job whose month is over is forgotten with its rows in place, which nobody finds without it. If all jobs of the month
have gone, `drop_partitions()` drops its partitions. If one is held or kept longer, the month stays, and what the others
have left is swept after a while: deleted job by job, in slices, from where the sweep had come. A sweep belongs to one
scheduler for a while; whatever of it is done twice does no harm.
"""

from dataclasses import dataclass
from uuid import UUID

from services.platform.database import Connection, Database

SWEEP_DAYS = 35  # what was left on a month's first day to expire can go with what is on its last

_IS_OVER = "SELECT EXISTS (SELECT FROM past_month($1))"

_LEAVE = """
    INSERT INTO left_rows (month, first_job, until_job) SELECT month, first_job, until_job FROM past_month($1)
    ON CONFLICT (month) DO NOTHING"""


async def is_month_over(database: Database | Connection, job_id: UUID) -> bool:
    """Whether the job's rows lie in a month that is dropped once its jobs have gone; this does not change again."""
    return bool(await database.fetchval(_IS_OVER, job_id))


async def leave(connection: Connection, job_id: UUID) -> None:
    """Note that a job which is being forgotten has left rows to its month, which is over."""
    await connection.execute(_LEAVE, job_id)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A month in which rows were left long ago, and the last job that was seen to."""

    month: str
    until_job: UUID
    swept_to: UUID


_CLAIM = """
    UPDATE left_rows AS l SET held_until = now() + $1 * interval '1 second',
        since = CASE WHEN l.swept_to IS NULL THEN now() ELSE l.since END, swept_to = coalesce(l.swept_to, l.first_job)
    WHERE l.month = (
        SELECT month FROM left_rows
        WHERE held_until <= now() AND (swept_to IS NOT NULL OR since < now() - $2 * interval '1 day')
        ORDER BY since LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING l.month, l.until_job, l.swept_to"""

# By the tables' keys: a look costs the same however many rows the job before has.
_NEXT = """
    SELECT next.job_id, EXISTS (SELECT FROM jobs AS j WHERE j.job_id = next.job_id) AS is_kept
    FROM (SELECT least(
        (SELECT job_id FROM attempts WHERE job_id > $1 AND job_id < $2 ORDER BY job_id LIMIT 1),
        (SELECT job_id FROM tasks WHERE job_id > $1 AND job_id < $2 ORDER BY job_id LIMIT 1),
        (SELECT job_id FROM stage_counters WHERE job_id > $1 AND job_id < $2 ORDER BY job_id LIMIT 1),
        (SELECT job_id FROM stage_stats WHERE job_id > $1 AND job_id < $2 ORDER BY job_id LIMIT 1)) AS job_id) AS next
    WHERE next.job_id IS NOT NULL"""

_ADVANCE = "UPDATE left_rows SET swept_to = $2, held_until = now() + $3 * interval '1 second' WHERE month = $1"
_END = "UPDATE left_rows SET swept_to = NULL, held_until = '-infinity' WHERE month = $1"

_FORGET = """
    DELETE FROM left_rows AS l
    WHERE NOT EXISTS (SELECT FROM job_partitions AS p WHERE p.month = l.month AND p.until_job = l.until_job)"""


async def claim_sweep(database: Database, hold_seconds: float) -> Sweep | None:
    """A month to sweep; nobody else does for this long."""
    row = await database.fetchrow(_CLAIM, hold_seconds, SWEEP_DAYS)
    return None if row is None else Sweep(row["month"], row["until_job"], row["swept_to"])


async def next_job(database: Database, sweep: Sweep, after: UUID) -> tuple[UUID, bool] | None:
    """The next job that has rows in the month, and whether it is kept."""
    row = await database.fetchrow(_NEXT, after, sweep.until_job)
    return None if row is None else (row["job_id"], row["is_kept"])


async def advance(database: Database, sweep: Sweep, swept_to: UUID, hold_seconds: float) -> None:
    """Record how far a sweep has come; the next step of it may come when it is no longer held."""
    await database.execute(_ADVANCE, sweep.month, swept_to, hold_seconds)


async def end_sweep(database: Database, sweep: Sweep) -> None:
    """The month has been seen to; it is swept again when what is left in it from now on has been there for long."""
    await database.execute(_END, sweep.month)


async def forget_months(database: Database) -> None:
    """Of months that were dropped nothing is left."""
    await database.execute(_FORGET)
