"""The life of a worker: active → draining → stopped, or lost when its lease ends."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from services.contract.resources import Capacity
from services.contract.states import Isolation
from services.engine.errors import Conflict, NotFound
from services.platform.database import Connection, Database, storable
from services.platform.version import VERSION

REASON_MAX = 2000  # characters of why a worker is out of service


class UnknownPool(LookupError):
    """A worker names a pool that is not registered."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The database's view of a worker: its state (`lost` if it is not live) and the bundles it holds.

    `replace_instance`: when it has drained, its group replaces its instance. `cancelled`: of some bundles, the indexes
    of tasks that were cancelled one by one; `followed`: likewise of those whose logs are read while they run.
    """

    state: str
    bundle_ids: frozenset[UUID]
    replace_instance: bool = False
    cancelled: Mapping[UUID, Collection[int]] = field(default_factory=dict)
    followed: Mapping[UUID, Collection[int]] = field(default_factory=dict)


# The part of a lease that may pass between two looks of the schedulers; what is longer was an outage.
_LOOK_SHARE = 1 / 6

# Only one row, written by one statement: it is right with any number of schedulers, and if one of them stands still.
_LOOK = """
    UPDATE database_watch SET seen_at = greatest(seen_at, now()),
        unseen = CASE WHEN now() - seen_at > $1 * interval '1 second'
            THEN unseen * tstzmultirange(tstzrange(now() - interval '7 days', NULL))
                + tstzmultirange(tstzrange(seen_at + $1 * interval '1 second', now()))
            ELSE unseen END
    RETURNING extract(epoch FROM now() - (SELECT seen_at FROM database_watch))::float8 - $1 AS unseen_seconds,
        EXISTS (
            SELECT FROM workers
            WHERE state IN ('active', 'draining') AND heartbeat_at < now() - $2 * interval '1 second') AS silent,
        EXISTS (SELECT FROM bundles WHERE worker_id IS NOT NULL) AS claimed"""


@dataclass(frozen=True, slots=True)
class Look:
    """For how many seconds no scheduler has seen the database before this look, else 0; and what there is to check."""

    unseen_seconds: float
    silent: bool  # a worker has sent no heartbeat for longer than the lease
    claimed: bool  # workers hold bundles


async def look(connection: Connection | Database, lease_seconds: float) -> Look:
    """Note that this scheduler sees the database.

    Whoever decides by leases looks first, several times a lease: time in which nobody has looked counts for none.
    """
    row = await connection.fetchrow(_LOOK, lease_seconds * _LOOK_SHARE, lease_seconds)
    assert row is not None
    return Look(max(0.0, row["unseen_seconds"] or 0.0), row["silent"], row["claimed"])


_MARK_LOST = """
    UPDATE workers SET state = 'lost', busy = 0, stopped_at = now()
    WHERE state IN ('active', 'draining') AND heartbeat_at < now() - $1 * interval '1 second'
      AND seen_seconds(heartbeat_at) > $1
    RETURNING worker_id"""


async def mark_lost_workers(connection: Connection | Database, lease_seconds: float) -> list[UUID]:
    """Mark workers as lost that were silent for longer than the lease while schedulers saw the database."""
    return [row["worker_id"] for row in await connection.fetch(_MARK_LOST, lease_seconds)]


_REGISTER = """
    INSERT INTO workers (worker_id, pool, hostname, instance_id, pid, slots, release, isolation, instance_type, zone,
        market, engine, cpus, memory, gpus, disk)
    SELECT $1, name, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16 FROM pools WHERE name = $2
    ON CONFLICT (worker_id) DO NOTHING"""


_HEARTBEAT = """
    WITH beat AS (
        UPDATE workers SET heartbeat_at = now(), busy = $2,
            idle_since = CASE WHEN $2 = 0 THEN coalesce(idle_since, now()) END
        WHERE worker_id = $1 AND state IN ('active', 'draining')
        RETURNING state, replace_instance
    )
    SELECT coalesce((SELECT state FROM beat), 'lost') AS state,
        coalesce((SELECT replace_instance FROM beat), false) AS replace_instance,
        ARRAY(SELECT bundle_id FROM bundles WHERE worker_id = $1) AS bundle_ids,
        (SELECT jsonb_object_agg(bundle_id, cancelled) FROM bundles WHERE worker_id = $1 AND cancelled IS NOT NULL)
            AS cancelled,
        (SELECT jsonb_object_agg(bundle_id, followed) FROM bundles WHERE worker_id = $1 AND followed_until > now())
            AS followed"""


_STOP = """
    UPDATE workers SET state = 'stopped', busy = 0, stopped_at = now()
    WHERE worker_id = $1 AND state IN ('active', 'draining')"""


_QUARANTINE = """
    UPDATE workers SET state = 'draining', quarantine = $2
    WHERE worker_id = $1 AND state IN ('active', 'draining')"""


async def register_worker(
    connection: Connection | Database,
    *,
    worker_id: UUID,
    pool: str,
    hostname: str,
    instance_id: str | None,
    pid: int,
    slots: int,
    isolation: Isolation | None = None,
    instance_type: str | None = None,
    zone: str | None = None,
    market: str | None = None,
    engine: str | None = None,
    capacity: Capacity | None = None,
) -> None:
    """Add a worker to its pool; safe to repeat. `capacity` is what its node has for tasks. Raises UnknownPool."""
    machine = (hostname, instance_id, pid, slots, VERSION, isolation, instance_type, zone, market, engine)
    has = (None,) * 4 if capacity is None else (capacity.cpus, capacity.memory, capacity.gpus, capacity.disk)
    await connection.execute(_REGISTER, worker_id, pool, *machine, *has)
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM workers WHERE worker_id = $1)", worker_id):
        raise UnknownPool(f"no pool is named {pool!r}; register it first (put_pool, `piecework pools put {pool}`)")


async def heartbeat(connection: Connection | Database, worker_id: UUID, busy: int) -> Heartbeat:
    """Renew the worker's lease; `busy` is its slots in use."""
    row = await connection.fetchrow(_HEARTBEAT, worker_id, busy)
    assert row is not None
    cancelled, followed = (
        {UUID(bundle_id): frozenset(indexes) for bundle_id, indexes in (row[name] or {}).items()}
        for name in ("cancelled", "followed")
    )
    return Heartbeat(row["state"], frozenset(row["bundle_ids"]), row["replace_instance"], cancelled, followed)


async def stop_worker(connection: Connection | Database, worker_id: UUID) -> None:
    """Mark a worker that has ended in good order as stopped. Bundles that it still holds are reaped."""
    await connection.execute(_STOP, worker_id)


async def quarantine_worker(connection: Connection | Database, worker_id: UUID, reason: str) -> None:
    """Drain a worker whose node can't run tasks, and say why: the scheduler replaces its instance."""
    await connection.execute(_QUARANTINE, worker_id, storable(reason)[:REASON_MAX])


_DRAIN = """
    UPDATE workers SET state = 'draining', drain_reason = coalesce($2, drain_reason),
        interrupted_at = CASE WHEN $3 THEN coalesce(interrupted_at, now()) ELSE interrupted_at END,
        replace_instance = replace_instance OR $4
    WHERE worker_id = $1 AND state IN ('active', 'draining')
    RETURNING state"""


async def drain_worker(
    connection: Connection,
    worker_id: UUID,
    reason: str | None = None,
    *,
    interrupted: bool = False,
    replace_instance: bool = False,
) -> None:
    """Drain a worker: from its next heartbeat on it takes no more tasks, ends its own, and stops.

    `interrupted`: EC2 ends its instance, so what it loses counts against no task. `replace_instance`: its group
    launches another one, instead of getting smaller. Raises NotFound, Conflict.
    """
    told = None if reason is None else storable(reason)[:REASON_MAX]
    state: str | None = await connection.fetchval(_DRAIN, worker_id, told, interrupted, replace_instance)
    if state is None:
        was = await connection.fetchval("SELECT state FROM workers WHERE worker_id = $1", worker_id)
        if was is None:
            raise NotFound(f"no worker has the id {worker_id}")
        raise Conflict(f"a worker that is {was} can't be drained; it must be active")


# Idle ones first: they are the quickest to be replaced.
_DRAIN_POOL = """
    UPDATE workers SET state = 'draining', drain_reason = $2, replace_instance = $3
    WHERE worker_id = ANY(ARRAY(
        SELECT worker_id FROM workers
        WHERE pool = $1 AND state = 'active'
          AND ($4::text IS NULL OR release IS DISTINCT FROM $4) AND ($5::timestamptz IS NULL OR started_at < $5)
        ORDER BY busy, started_at
        LIMIT CASE WHEN $6::integer IS NOT NULL THEN greatest(0, $6 - (
            SELECT count(*) FROM workers WHERE pool = $1 AND state = 'draining')) END
        FOR UPDATE))
    RETURNING worker_id"""

_LEFT = """
    SELECT count(*) FILTER (WHERE state = 'draining') AS draining,
        count(*) FILTER (WHERE state = 'active' AND ($2::text IS NULL OR release IS DISTINCT FROM $2)
            AND ($3::timestamptz IS NULL OR started_at < $3)) AS remaining
    FROM workers WHERE pool = $1 AND state IN ('active', 'draining')"""


@dataclass(frozen=True, slots=True)
class DrainedPool:
    """Workers that have just been told to drain; how many of the pool drain now, and how many are still to do so."""

    worker_ids: list[UUID]
    draining: int
    remaining: int


async def drain_pool(
    connection: Connection,
    pool: str,
    reason: str,
    *,
    release_not: str | None = None,
    started_before: datetime | None = None,
    replace_instance: bool = False,
    at_most: int | None = None,
) -> DrainedPool:
    """Drain the pool's active workers, or those of another release, or those that started before a moment.

    No more than `at_most` of the pool drain at the same time, so repeat it until nothing remains. To be called in a
    transaction. Raises NotFound.
    """
    if await connection.fetchval("SELECT true FROM pools WHERE name = $1 FOR UPDATE", pool) is None:
        raise NotFound(f"no pool is named {pool!r}")
    told = storable(reason)[:REASON_MAX]
    rows = await connection.fetch(_DRAIN_POOL, pool, told, replace_instance, release_not, started_before, at_most)
    left = await connection.fetchrow(_LEFT, pool, release_not, started_before)
    assert left is not None
    return DrainedPool([row["worker_id"] for row in rows], left["draining"], left["remaining"])
