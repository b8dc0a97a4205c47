"""Quotas: how much of the grid a key, and a share, may use at a time.

The settings say how much, unless an operator has given the key or the share quotas of its own. What counts is counted
in the transaction that adds to it; where it may become tight, under a lock of the key and of the share. So of two
submissions that come at once and have room for one, one is refused.
"""

import time
from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from services.contract.fields import Strict
from services.platform.database import Connection, Database
from services.platform.settings import Settings

# Submissions that can run at the same moment, a generous bound: each has a connection. Together they take no more than
# half of a quota if each wants less than this part of it. So up to half of a quota is given without a lock.
AT_ONCE = 500

Limit = Annotated[int, Field(ge=0, le=2**53)] | None


class KeyQuotas(Strict):
    """What a key may use; what is not given is as the settings say."""

    requests_per_second: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(
        None, description="to each process of the API and of the stats service; ten seconds' worth may come at once"
    )
    jobs_max: Limit = Field(None, description="jobs that have not ended, scheduled ones included")
    tasks_max: Limit = Field(None, description="tasks of these jobs, as far as their number is known at submission")
    schedules_max: Limit = None
    triggers_max: Limit = None
    upload_bytes_max: Limit = Field(None, description="announced bytes of uploads that are not completed")
    upload_bytes_day_max: Limit = Field(None, description="announced bytes of all uploads of the last 24 hours")


class ShareQuotas(Strict):
    """What the jobs of a share may use together; what is not given is as the settings say."""

    jobs_max: Limit = Field(None, description="jobs that have not ended, scheduled ones included")
    tasks_max: Limit = Field(None, description="tasks of these jobs, as far as their number is known at submission")
    priority_max: Annotated[int, Field(ge=-1000, le=1000)] | None = Field(
        None, description="highest priority of a job; not given: any"
    )


class Quota(BaseModel):
    """A quota, and what is used of it."""

    name: str = Field(examples=["jobs_max"])
    limit: float
    used: float | None = Field(description="null: it is a rate, or a limit of each job")


class QuotaExceeded(Exception):
    """A quota has no room for this; the message says which, what is used of it, and what to do."""

    def __init__(self, whose: str, name: str, limit: int, used: int, wanted: int, fix: str) -> None:
        super().__init__(
            f"{whose} has the quota {name} = {limit:,}, of which {used:,} are used, and this takes {wanted:,}: {fix}"
        )


# The key's lock comes before the share's, so that no two wait for each other.
_LOCK = """
    SELECT pg_advisory_xact_lock(hashtextextended(whose, 8)) FROM unnest($1::text[]) WITH ORDINALITY AS w (whose, n)
    ORDER BY n"""

_USED = """
    SELECT 'the key ' || quote_literal(k.name) AS whose, k.quotas, u.jobs, u.tasks
    FROM api_keys AS k CROSS JOIN LATERAL (
        SELECT count(*) AS jobs, coalesce(sum(j.tasks_known), 0)::bigint AS tasks FROM jobs AS j
        WHERE j.key_id = k.key_id AND j.state NOT IN ('succeeded', 'failed', 'cancelled')
    ) AS u WHERE k.key_id = $1
    UNION ALL
    SELECT 'the share ' || quote_literal($2), coalesce((SELECT s.quotas FROM shares AS s WHERE s.name = $2), '{}'),
        count(*), coalesce(sum(j.tasks_known), 0)::bigint
    FROM jobs AS j WHERE j.share = $2 AND j.state NOT IN ('succeeded', 'failed', 'cancelled')"""

_JOBS_FIX = "wait until a job ends, cancel one, or have an operator raise the quota"


def _limits(settings: Settings, whose: str, quotas: Mapping[str, Any]) -> dict[str, Any]:
    """The quotas that hold: the own ones, and those of the settings."""
    kind = "share" if whose.startswith("the share") else "key"
    return {name: quotas.get(name, getattr(settings, f"{kind}_{name}")) for name in ("jobs_max", "tasks_max")}


async def check_job(
    connection: Connection, settings: Settings, key_id: UUID | None, share: str, *, priority: int, tasks: int
) -> None:
    """Raises QuotaExceeded unless one more job of that many tasks has room. Holds the place until the commit."""
    if not await look_for_room(connection, settings, key_id, share, priority=priority, tasks=tasks):
        await connection.execute(_LOCK, [*([f"key {key_id}"] if key_id else []), f"share {share}"])
        await look_for_room(connection, settings, key_id, share, priority=priority, tasks=tasks)


async def look_for_room(
    connection: Connection | Database, settings: Settings, key_id: UUID | None, share: str, *, priority: int, tasks: int
) -> bool:
    """Raises QuotaExceeded like `check_job`, but holds nothing. True if there is room for whatever comes at once."""
    rows = await connection.fetch(_USED, key_id, share)
    plenty = True
    for row in rows:
        limits = _limits(settings, row["whose"], row["quotas"])
        for name, used, wanted in (("jobs_max", row["jobs"], 1), ("tasks_max", row["tasks"], tasks)):
            _require(row["whose"], name, limits[name], used, wanted, _JOBS_FIX)
            plenty &= used <= limits[name] / 2 and wanted <= limits[name] / (2 * AT_ONCE)
    priority_max = rows[-1]["quotas"].get("priority_max")
    if priority_max is not None and priority > priority_max:
        fix = "submit it with a lower priority, or have an operator raise the quota"
        raise QuotaExceeded(rows[-1]["whose"], "priority_max", priority_max, 0, priority, fix)
    return plenty


_ENDED = """
    SELECT key_id, share, priority, tasks_known FROM jobs
    WHERE job_id = $1 AND state IN ('succeeded', 'failed', 'cancelled')"""


async def check_retry(connection: Connection, settings: Settings, job_id: UUID) -> None:
    """Raises QuotaExceeded unless there is room for a job that has ended to run again."""
    if job := await connection.fetchrow(_ENDED, job_id):
        size = {"priority": job["priority"], "tasks": job["tasks_known"]}
        await check_job(connection, settings, job["key_id"], job["share"], **size)


def _require(whose: str, name: str, limit: int, used: int, wanted: int, fix: str) -> None:
    if used + wanted > limit:
        raise QuotaExceeded(whose, name, limit, used, wanted, fix)


_COUNT_SCHEDULES = "SELECT count(*) FROM schedules WHERE key_id = $1"
_COUNT_TRIGGERS = "SELECT count(*) FROM triggers WHERE key_id = $1"
_KEY = "SELECT name, quotas FROM api_keys WHERE key_id = $1"


async def check_schedule(connection: Connection, settings: Settings, key_id: UUID) -> None:
    """Raises QuotaExceeded unless the key may have one more schedule."""
    await _check_count(connection, settings, key_id, "schedules_max", _COUNT_SCHEDULES)


async def check_trigger(connection: Connection, settings: Settings, key_id: UUID) -> None:
    """Raises QuotaExceeded unless the key may have one more trigger."""
    await _check_count(connection, settings, key_id, "triggers_max", _COUNT_TRIGGERS)


async def _check_count(connection: Connection, settings: Settings, key_id: UUID, name: str, count: str) -> None:
    whose, limits = await _hold_key(connection, settings, key_id)
    used = await connection.fetchval(count, key_id)
    _require(whose, name, limits[name], used, 1, "delete one, or have an operator raise the quota")


async def _hold_key(connection: Connection, settings: Settings, key_id: UUID) -> tuple[str, dict[str, Any]]:
    """Lock the key's quotas until the transaction ends; returns whose they are, and all of them."""
    await connection.execute(_LOCK, [f"key {key_id}"])
    row = await connection.fetchrow(_KEY, key_id)
    name, own = (row["name"], row["quotas"]) if row else (str(key_id), {})
    return f"the key {name!r}", key_limits(settings, own)


def key_limits(settings: Settings, own: Mapping[str, Any]) -> dict[str, Any]:
    """All quotas of a key that hold, by name: its own, and those of the settings."""
    default = {name: getattr(settings, f"key_{name}", None) for name in KeyQuotas.model_fields}
    return default | {"requests_per_second": settings.requests_per_second} | dict(own)


def share_limits(settings: Settings, own: Mapping[str, Any]) -> dict[str, Any]:
    """All quotas of a share that hold, by name."""
    default = {"jobs_max": settings.share_jobs_max, "tasks_max": settings.share_tasks_max, "priority_max": None}
    return default | dict(own)


def _two_days_ago() -> UUID:
    """The id (UUIDv7) of a row that was made then: all later ones are after it in the primary key."""
    return UUID(int=int((time.time() - 2 * 86_400) * 1000) << 80)


_UPLOADS = """
    SELECT coalesce(sum(bytes) FILTER (WHERE completed_at IS NULL AND aborted_at IS NULL), 0)::bigint AS open,
        coalesce(sum(bytes), 0)::bigint AS day
    FROM uploads WHERE key_id = $1 AND created_at > now() - interval '24 hours' AND upload_id > $2"""


async def check_upload(connection: Connection, settings: Settings, key_id: UUID, size: int) -> None:
    """Raises QuotaExceeded unless the key may upload that many bytes more."""
    whose, limits = await _hold_key(connection, settings, key_id)
    used = await connection.fetchrow(_UPLOADS, key_id, _two_days_ago())
    assert used is not None
    fix = "complete or abort your uploads, wait until they are a day old, or have an operator raise the quota"
    _require(whose, "upload_bytes_max", limits["upload_bytes_max"], used["open"], size, fix)
    fix = "wait until earlier uploads are a day old, or have an operator raise the quota"
    _require(whose, "upload_bytes_day_max", limits["upload_bytes_day_max"], used["day"], size, fix)


_USE_OF_KEY = """
    SELECT j.jobs_max, j.tasks_max, u.upload_bytes_max, u.upload_bytes_day_max,
        (SELECT count(*) FROM schedules WHERE key_id = $1) AS schedules_max,
        (SELECT count(*) FROM triggers WHERE key_id = $1) AS triggers_max
    FROM (
        SELECT count(*) AS jobs_max, coalesce(sum(tasks_known), 0)::bigint AS tasks_max
        FROM jobs WHERE key_id = $1 AND state NOT IN ('succeeded', 'failed', 'cancelled')
    ) AS j CROSS JOIN (
        SELECT coalesce(sum(bytes) FILTER (WHERE completed_at IS NULL AND aborted_at IS NULL), 0)::bigint
                AS upload_bytes_max,
            coalesce(sum(bytes), 0)::bigint AS upload_bytes_day_max
        FROM uploads WHERE key_id = $1 AND created_at > now() - interval '24 hours' AND upload_id > $2
    ) AS u"""

_USE_OF_SHARE = """
    SELECT count(*) AS jobs_max, coalesce(sum(tasks_known), 0)::bigint AS tasks_max
    FROM jobs WHERE share = $1 AND state NOT IN ('succeeded', 'failed', 'cancelled')"""


def _quotas(limits: Mapping[str, Any], used: Mapping[str, Any]) -> list[Quota]:
    given = {name: limit for name, limit in limits.items() if limit is not None}
    return [Quota(name=name, limit=limit, used=used.get(name)) for name, limit in given.items()]


async def quotas_of_key(
    connection: Connection | Database, settings: Settings, key_id: UUID, own: Mapping[str, Any]
) -> list[Quota]:
    """What a key with these quotas of its own may use, and uses."""
    used = await connection.fetchrow(_USE_OF_KEY, key_id, _two_days_ago())
    return _quotas(key_limits(settings, own), dict(used or {}))


async def quotas_of_share(
    connection: Connection | Database, settings: Settings, name: str, own: Mapping[str, Any]
) -> list[Quota]:
    """What a share with these quotas of its own may use, and uses."""
    used = await connection.fetchrow(_USE_OF_SHARE, name)
    return _quotas(share_limits(settings, own), dict(used or {}))
