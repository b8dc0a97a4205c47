"""What the reasons are told from: the rows of jobs that have not ended, of their pools, and of the scheduler's loops.

Each statement finds its rows by key, and reads a bounded number of tasks, bundles and jobs beside them: it may be asked
for at any time, of jobs of any size. Nothing here is kept up while jobs run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from services.contract.resources import Capacity
from services.engine.nodes import Nodes
from services.platform.database import Connection, Database

Row = Mapping[str, Any]

_JOBS = """
    SELECT j.job_id, j.name, j.state, j.priority, j.share, j.run_at, j.created_at, j.paused_at, now() AS now, (
        SELECT jsonb_agg(jsonb_build_object('job_id', d.predecessor_id, 'name', p.name, 'state', p.state,
            'condition', d.condition, 'ended', d.ended, 'by_index', d.stage IS NOT NULL, 'followed', d.followed)
            ORDER BY d.predecessor_id)
        FROM job_dependencies AS d LEFT JOIN jobs AS p ON p.job_id = d.predecessor_id
        WHERE d.job_id = j.job_id AND (j.state = 'scheduled' OR d.stage IS NOT NULL AND NOT d.followed)
    ) AS predecessors
    FROM jobs AS j
    WHERE j.job_id = ANY($1::uuid[]) AND j.state NOT IN ('succeeded', 'failed', 'cancelled') ORDER BY j.job_id"""

# A scheduler holds a merge by its lease, or by a lock if it is of the release before.
# Of the tasks that are ready: when the first one is due, and what most of those that failed before have failed with. Of
# the bundles that no worker has: since when, and what workers lack that put one off. Of several pools in order of
# preference, `pool` is the last one whose turn it is for any of these tasks.
_STAGES = """
    SELECT s.job_id, s.stage, s.name, s.kind, turn.pool, turn.next_pool, s.next_pool_after_seconds,
        s.state, s.tasks_from, s.barrier, s.chains, s.planned,
        s.task_count, s.open_seconds, s.appended_at, s.columns_due,
        s.put_off_at, s.put_off_since, s.put_off_error, s.started_at, s.finished_at,
        s.max_attempts, s.retry_budget, (s.options ->> 'running_max')::integer AS running_max,
        c.ready, c.queued, c.running, c.succeeded, c.failed, c.attempts, s.needs,
        due.ready_at, again.error, again.failed_before, offered.queued_at, offered.send_at,
        unfit.put_off, unfit.put_off_error AS unfit_error, unfit.queued_at AS unfit_since, lost.outputs AS lost_outputs,
        lost.uri AS lost_uri, lost.lost_at,
        s.chains AND c.ready > 0 AND is_full(s.job_id, (s.stage + 1)::smallint, $2) AS held_back,
        CASE WHEN s.state = 'merging' THEN coalesce(s.merge_until > now(), false)
            OR EXISTS (
                SELECT FROM pg_locks AS l WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND l.granted
                  AND (l.classid::bigint << 32) | l.objid::bigint = hashtextextended('merge ' || s.job_id::text, 0))
            ELSE false END AS merge_held
    FROM stages AS s
    CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
    LEFT JOIN LATERAL (
        SELECT t.ready_at FROM tasks AS t
        WHERE t.job_id = s.job_id AND t.stage = s.stage AND t.ready_at IS NOT NULL ORDER BY t.ready_at LIMIT 1
    ) AS due ON true
    LEFT JOIN LATERAL (
        SELECT count(*) AS failed_before,
            mode() WITHIN GROUP (ORDER BY (r.error ->> 'type') || ': ' || (r.error ->> 'message')) AS error
        FROM (
            SELECT t.error FROM tasks AS t
            WHERE t.job_id = s.job_id AND t.stage = s.stage AND t.ready_at IS NOT NULL
              AND (t.failures > 0 OR t.losses > 0)
            ORDER BY t.ready_at LIMIT 100
        ) AS r
    ) AS again ON true
    LEFT JOIN LATERAL (
        SELECT min(o.queued_at) AS queued_at, min(o.send_at) AS send_at, max(array_position(s.pools, o.pool)) AS turn
        FROM (
            SELECT b.worker_id, b.queued_at, b.send_at, b.pool FROM bundles AS b
            WHERE b.job_id = s.job_id AND b.stage = s.stage LIMIT 2000
        ) AS o WHERE o.worker_id IS NULL
    ) AS offered ON c.queued > 0
    CROSS JOIN LATERAL (
        SELECT greatest(1, offered.turn, least(cardinality(s.pools), 1 + floor(
            extract(epoch FROM now() - due.ready_at) / s.next_pool_after_seconds)))::integer AS number
    ) AS reached
    CROSS JOIN LATERAL (
        SELECT coalesce(s.pools[reached.number], s.pool) AS pool, s.pools[reached.number + 1] AS next_pool
    ) AS turn
    LEFT JOIN LATERAL (
        SELECT b.put_off, b.put_off_error, b.queued_at FROM bundles AS b
        WHERE b.job_id = s.job_id AND b.stage = s.stage AND b.put_off > 0 AND b.worker_id IS NULL LIMIT 1
    ) AS unfit ON true
    LEFT JOIN LATERAL (
        SELECT count(*) AS outputs, min(w.uri) AS uri, min(w.lost_at) AS lost_at FROM (
            SELECT o.uri, o.lost_at FROM lost_outputs AS o
            WHERE o.job_id = s.job_id AND o.reader_stage = s.stage AND o.waits LIMIT 1000
        ) AS w
    ) AS lost ON true
    WHERE s.job_id = ANY($1::uuid[]) ORDER BY s.job_id, s.stage"""

# The workers of pools, and the most urgent job that waits there, of those above a priority.
_POOLS = """
    SELECT p.name, to_jsonb(p) AS pool, w.active, w.draining, w.unfit, w.slots, w.busy, last.stopped_at,
        urgent.job_id AS urgent_id, urgent.name AS urgent_name, urgent.priority AS urgent_priority
    FROM unnest($1::text[], $2::integer[]) AS asked (pool, priority)
    JOIN pools AS p ON p.name = asked.pool
    CROSS JOIN LATERAL (
        SELECT count(*) FILTER (WHERE w.state = 'active') AS active,
            count(*) FILTER (WHERE w.state = 'draining') AS draining,
            max(w.quarantine) FILTER (WHERE w.state = 'draining') AS unfit,
            coalesce(sum(w.slots) FILTER (WHERE w.state = 'active'), 0) AS slots,
            coalesce(sum(w.busy) FILTER (WHERE w.state = 'active'), 0) AS busy
        FROM workers AS w WHERE w.pool = p.name AND w.state IN ('active', 'draining')
    ) AS w
    LEFT JOIN LATERAL (
        SELECT g.stopped_at FROM workers AS g WHERE g.pool = p.name AND g.stopped_at IS NOT NULL
        ORDER BY g.stopped_at DESC LIMIT 1
    ) AS last ON w.active = 0
    LEFT JOIN LATERAL (
        SELECT j.job_id, j.name, j.priority FROM (
            SELECT job_id, name, priority FROM jobs WHERE state = 'running' AND priority > asked.priority
            ORDER BY priority DESC, job_id LIMIT 100
        ) AS j JOIN stages AS s ON s.job_id = j.job_id AND s.state = 'running' AND s.pool = p.name
        CROSS JOIN LATERAL stage_sums(s.job_id, s.stage) AS c
        WHERE c.ready + c.queued > 0 ORDER BY j.priority DESC, j.job_id LIMIT 1
    ) AS urgent ON w.active > 0"""

# The jobs whose tasks have the most of a pool's slots, by a sample of its bundles.
_RUNNING = """
    SELECT asked.pool, j.job_id, j.name, sum(h.count)::integer AS tasks
    FROM unnest($1::text[]) AS asked (pool)
    CROSS JOIN LATERAL (
        SELECT b.job_id, b.count FROM workers AS w JOIN bundles AS b USING (worker_id)
        WHERE w.pool = asked.pool AND w.state IN ('active', 'draining') LIMIT 1000
    ) AS h
    JOIN jobs AS j ON j.job_id = h.job_id
    GROUP BY asked.pool, j.job_id, j.name ORDER BY asked.pool, tasks DESC, j.job_id"""

_MISSING = """
    SELECT pool, instance_id FROM instances WHERE pool = ANY($1::text[]) AND missing_since IS NOT NULL
    ORDER BY pool, missing_since, instance_id LIMIT 100"""

_NODES = """
    SELECT DISTINCT pool, cpus, memory, gpus, disk, slots FROM workers
    WHERE pool = ANY($1::text[]) AND state = 'active' AND cpus IS NOT NULL"""

_LOOPS = "SELECT loop, stepped_at, error FROM scheduler_loops"


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool, its live workers, and who is ahead of what waits there."""

    row: Row  # of `pools`, with times as text
    active: int  # workers that take tasks
    draining: int
    unfit: str | None  # why one of these took itself out of service
    slots: int  # of active workers
    busy: int  # of these slots, as their last heartbeats say
    stopped_at: datetime | None  # the last worker, if there is none now
    urgent: tuple[UUID, str, int] | None  # a job that waits there, with its name and its priority: the highest one
    running: Sequence[tuple[UUID, str, int]]  # jobs with most of the tasks that run there: id, name, number of tasks
    missing: Sequence[str]  # instances without a worker
    nodes: Nodes  # of active workers that say what they have

    @property
    def is_full(self) -> bool:
        return self.busy >= self.slots


@dataclass(frozen=True, slots=True)
class Facts:
    """All about some jobs that have not ended."""

    jobs: Mapping[UUID, Row]
    stages: Mapping[UUID, Sequence[Row]]
    pools: Mapping[str, PoolFacts]
    loops: Mapping[str, Row]


def _waits(stage: Row) -> bool:
    return bool(stage["state"] == "running" and stage["ready"] + stage["queued"])


async def read_facts(connection: Connection | Database, job_ids: Sequence[UUID], ready_tasks_max: int) -> Facts:
    """The facts about those of these jobs that have not ended."""
    jobs = {row["job_id"]: dict(row) for row in await connection.fetch(_JOBS, job_ids)} if job_ids else {}
    stages: dict[UUID, list[Row]] = {job_id: [] for job_id in jobs}
    if not jobs:
        return Facts(jobs, stages, {}, {})
    priorities: dict[str, int] = {}
    for row in map(dict, await connection.fetch(_STAGES, list(jobs), ready_tasks_max)):
        stages[row["job_id"]].append(row)
        if _waits(row):
            priority = jobs[row["job_id"]]["priority"]
            priorities[row["pool"]] = min(priority, priorities.get(row["pool"], priority))
    loops = {row["loop"]: dict(row) for row in await connection.fetch(_LOOPS)}
    return Facts(jobs, stages, await _read_pools(connection, priorities), loops)


async def _read_pools(connection: Connection | Database, priorities: Mapping[str, int]) -> dict[str, PoolFacts]:
    """By name; of each, jobs above this priority are looked for."""
    if not priorities:
        return {}
    rows = await connection.fetch(_POOLS, list(priorities), list(priorities.values()))
    running: dict[str, list[tuple[UUID, str, int]]] = {name: [] for name in priorities}
    if full := [row["name"] for row in rows if row["active"] and row["busy"] >= row["slots"]]:
        for row in await connection.fetch(_RUNNING, full):
            running[row["pool"]].append((row["job_id"], row["name"], row["tasks"]))
    nodes: dict[str, list[tuple[Capacity, int]]] = {name: [] for name in priorities}
    for row in await connection.fetch(_NODES, list(priorities)):
        nodes[row["pool"]].append((Capacity.of(row), row["slots"]))
    missing: dict[str, list[str]] = {name: [] for name in priorities}
    if short := [row["name"] for row in rows if row["pool"].get("instances_missing")]:
        for row in await connection.fetch(_MISSING, short):
            missing[row["pool"]].append(row["instance_id"])
    return {
        row["name"]: PoolFacts(
            row["pool"],
            active=row["active"],
            draining=row["draining"],
            unfit=row["unfit"],
            slots=row["slots"],
            busy=row["busy"],
            stopped_at=row["stopped_at"],
            urgent=row["urgent_id"] and (row["urgent_id"], row["urgent_name"], row["urgent_priority"]),
            running=running[row["name"]],
            missing=missing[row["name"]],
            nodes=Nodes(nodes[row["name"]]),
        )
        for row in rows
    }
