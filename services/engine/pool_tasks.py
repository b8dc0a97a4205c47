"""The tasks of jobs that have not ended, by state and by the pool where they wait or run.

A stage for several pools counts in the first of them, which it prefers; but what is queued or runs counts where its
bundles are. However many jobs there are, no statement takes long: it looks at a bounded number of them.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.contract.states import TASK_STATES
from services.engine.months import months_of
from services.platform.database import Connection, Database

JOBS_MAX = 500  # of a page: three milliseconds

# The index `jobs_active` has no more rows than there are such jobs.
_UNFINISHED = "SELECT job_id FROM jobs WHERE state NOT IN ('succeeded', 'failed', 'cancelled') ORDER BY job_id"

# Of each pool, and of each stage for several pools.
_TASKS = """
    SELECT s.pool, CASE WHEN s.pools IS NOT NULL THEN s.job_id END AS job_id,
        CASE WHEN s.pools IS NOT NULL THEN s.stage END AS stage,
        sum(c.ready)::bigint AS ready, sum(c.queued)::bigint AS queued, sum(c.running)::bigint AS running,
        sum(c.succeeded)::bigint AS succeeded, sum(c.failed)::bigint AS failed, sum(c.cancelled)::bigint AS cancelled
    FROM stages AS s JOIN stage_counters AS c ON c.job_id = s.job_id AND c.stage = s.stage
    WHERE s.job_id = ANY($1::uuid[]) AND c.job_id >= ANY($2) AND c.job_id < ANY($3)
    GROUP BY 1, 2, 3"""

# A bundle may still be claimed in a pool before the one that it was offered in last. Backups are of tasks that run.
_BUNDLES = """
    SELECT b.job_id, b.stage, coalesce(w.pool, b.pool) AS pool,
        coalesce(sum(b.count) FILTER (WHERE b.worker_id IS NULL), 0) AS queued,
        coalesce(sum(b.count) FILTER (WHERE b.worker_id IS NOT NULL), 0) AS running
    FROM unnest($1::uuid[], $2::smallint[]) AS s (job_id, stage) JOIN bundles AS b USING (job_id, stage)
    LEFT JOIN workers AS w ON w.worker_id = b.worker_id
    WHERE b.backup_of IS NULL GROUP BY 1, 2, 3 ORDER BY 1, 2, 3"""

Page = tuple[list[UUID], list[UUID], list[UUID]]  # jobs, and the bounds of their months


async def unfinished_jobs(connection: Connection | Database) -> list[Page]:
    """The jobs that have not ended, in order."""
    ids = [row["job_id"] for row in await connection.fetch(_UNFINISHED)]
    pages = [ids[start : start + JOBS_MAX] for start in range(0, len(ids), JOBS_MAX)]
    return [(page, *months_of(page)) for page in pages]


async def count_tasks(connection: Connection | Database) -> Mapping[str, Counter[str]]:
    """By pool, then by state; of a pool without any an empty counter.

    While bundles of several tasks run, which pool of a stage has how many of its running tasks is reckoned.
    """
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    for page in await unfinished_jobs(connection):
        rows = await connection.fetch(_TASKS, *page)
        for row in rows:
            tasks[row["pool"]].update({state: row[state] for state in TASK_STATES})
        if several := [row for row in rows if row["job_id"] is not None and row["queued"] + row["running"]]:
            await _move(connection, several, tasks)
    return tasks


async def _move(connection: Connection | Database, stages: Sequence[Record], tasks: dict[str, Counter[str]]) -> None:
    """Count what of these stages is queued or runs where it does, instead of in their first pools."""
    bundles: dict[Any, list[Record]] = defaultdict(list)
    keys = [row["job_id"] for row in stages], [row["stage"] for row in stages]
    for row in await connection.fetch(_BUNDLES, *keys):
        bundles[row["job_id"], row["stage"]].append(row)
    for stage in stages:
        for state in ("queued", "running"):
            sizes = {row["pool"]: row[state] for row in bundles[stage["job_id"], stage["stage"]]}
            if any(sizes.values()):  # else they are gone since
                tasks[stage["pool"]][state] -= stage[state]
                for pool, count in share_out(stage[state], sizes).items():
                    tasks[pool][state] += count


def share_out(total: int, sizes: Mapping[str, int]) -> dict[str, int]:
    """Whole numbers in proportion to the sizes, which are not all 0; their sum is the total."""
    whole = sum(sizes.values())
    ends = [(2 * total * end + whole) // (2 * whole) for end in accumulate(sizes.values(), initial=0)]
    return {name: end - start for name, (start, end) in zip(sizes, pairwise(ends), strict=True)}
