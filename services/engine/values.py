"""The values of a stage's tasks in the order in which these ended, resumable from a cursor: each end comes once.

A job is read in two ways, both by an index. First its tasks, by their index, as far as they have ended in transactions
before `txid`, the oldest that could still commit when the reading began. Then the attempts of all jobs from `txid` on,
in the order of their transactions and only as far as no older one can still commit, of which this job's are picked out.
"""

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from asyncpg import Record

from services.contract.states import TERMINAL
from services.engine.errors import NotFound
from services.engine.months import months_of
from services.platform.database import ENDS_CHANNEL, Database

ROWS_MAX = 5_000  # tasks, or attempts of all jobs, that one statement looks at
_NEVER = 2**64 - 1  # the last transaction that there can be: all that is visible is before it

_JOB = """
    SELECT j.state, EXISTS (
            SELECT FROM stages AS s WHERE s.job_id = j.job_id AND s.stage = 0 AND s.open_seconds IS NOT NULL
        ) AS is_open, oldest_transaction() AS oldest, pg_snapshot_xmax(pg_current_snapshot()) AS next,
        (SELECT max(s.stage) FROM stages AS s WHERE s.job_id = j.job_id AND s.kind = 'map') AS last
    FROM jobs AS j WHERE j.job_id = $1"""

# An end whose attempt is of a later transaction comes with the attempts.
_TASKS = """
    SELECT t.index, t.state, t.attempt, t.output, t.error, a.txid, a.log FROM (
        SELECT index, state, attempt, output, error FROM tasks
        WHERE job_id = $1 AND stage = $2 AND index > $3 ORDER BY index LIMIT $4
    ) AS t LEFT JOIN LATERAL (
        SELECT w.txid, w.log FROM attempts AS w
        WHERE w.job_id = $1 AND w.stage = $2 AND w.index = t.index AND w.attempt = t.attempt
          AND t.state IN ('succeeded', 'failed', 'cancelled')
        ORDER BY w.txid DESC LIMIT 1
    ) AS a ON true ORDER BY t.index"""

# All attempts of a transaction, so that the cursor need only name it.
_ATTEMPTS = """
    WITH recent AS MATERIALIZED (
        SELECT txid, job_id, stage, index, attempt, log FROM attempts
        WHERE txid > $3::xid8 AND txid < $4::xid8 AND job_id >= ANY($6) AND job_id < ANY($7)
        ORDER BY txid FETCH FIRST $5 ROWS WITH TIES
    ), ended AS MATERIALIZED (
        SELECT index, attempt, max(txid) AS txid, max(log) AS log FROM recent
        WHERE job_id = $1 AND stage = $2 GROUP BY index, attempt
    )
    SELECT NULL::integer AS index, NULL::text AS state, count(*)::integer AS attempt, NULL::jsonb AS output,
        NULL::jsonb AS error, max(txid) AS txid, NULL::text AS log FROM recent
    UNION ALL (
        SELECT t.index, t.state, t.attempt, t.output, t.error, e.txid, e.log FROM ended AS e JOIN tasks AS t
            ON t.job_id = $1 AND t.stage = $2 AND t.index = e.index AND t.attempt = e.attempt
        WHERE t.state IN ('succeeded', 'failed', 'cancelled') ORDER BY e.txid, t.index
    )"""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a job's values: after transaction `txid` or, while its tasks are read, after task `index`."""

    txid: int
    index: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises ValueError."""
        txid, _, index = text.partition(":")
        return cls(int(txid), int(index) if index else None)

    def __str__(self) -> str:
        return str(self.txid) if self.index is None else f"{self.txid}:{self.index}"


@dataclass(frozen=True, slots=True)
class Values:
    """Tasks that have ended, and the cursor after them. If there is `more`, it can be read at once; if the job has
    `ended`, nothing will ever follow. Whether further ends are `notified` on the channel of ends."""

    tasks: list[Record]
    after: Cursor
    more: bool
    ended: bool
    notified: bool


async def read_values(
    database: Database, job_id: UUID, stage: int | None, after: Cursor | None, rows_max: int | None = None
) -> Values:
    """Some of the tasks that have ended since; of the last stage but a reduce, unless it is given. Raises NotFound."""
    rows_max = rows_max or ROWS_MAX
    job = await database.fetchrow(_JOB, job_id)
    if job is None:
        raise NotFound(f"there is no job {job_id}")
    number = job["last"] if stage is None else stage
    if after is None or after.txid >= job["next"]:  # of a database that was restored since
        after = Cursor(job["oldest"] - 1, -1)
    if after.index is not None:
        rows = await database.fetch(_TASKS, job_id, number, after.index, rows_max)
        tasks = [row for row in rows if row["txid"] is not None and row["txid"] <= after.txid]
        read_to = Cursor(after.txid, None if len(rows) < rows_max else rows[-1]["index"])
        return Values(tasks, read_to, more=True, ended=False, notified=job["is_open"])
    ended = job["state"] in TERMINAL
    until = _NEVER if ended else job["oldest"]
    bounds = (after.txid, until, rows_max, *months_of([job_id]))
    looked_at, *tasks = await database.fetch(_ATTEMPTS, job_id, number, *bounds)
    more = looked_at["attempt"] >= rows_max
    return Values(tasks, Cursor(looked_at["txid"] or after.txid), more, ended and not more, job["is_open"])


async def tell_ends(database: Database, job_ids: Collection[UUID]) -> None:
    """Wake whoever waits for values of these jobs, after their tasks have ended.

    Not in the same transaction: one that notifies holds up all others that do until it is on disk.
    """
    await database.execute(
        "SELECT pg_notify($1, job_id::text) FROM unnest($2::uuid[]) AS job_id", ENDS_CHANNEL, list(job_ids)
    )
