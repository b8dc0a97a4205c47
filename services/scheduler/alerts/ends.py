"""What rules find of jobs that have ended. Each end is looked at once, in the transaction that takes its record."""

from collections.abc import AsyncIterator, Mapping
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.engine.alerts import Conditions
from services.engine.records import check_records, counted_stages
from services.platform.database import Connection
from services.scheduler.alerts.incidents import Finding, Subject, record
from services.scheduler.alerts.words import span
from services.scheduler.loop import Context

ENDS_MAX = 100  # at once
RUNS_MIN = 5  # before there is a usual time

_TAKE = """
    DELETE FROM ended_jobs WHERE job_id = ANY(ARRAY(
        SELECT job_id FROM ended_jobs ORDER BY job_id LIMIT $1 FOR UPDATE SKIP LOCKED))
    RETURNING job_id"""

_OVER = """
    UPDATE incidents SET over_at = now(), last_at = now(),
        tell_at = CASE WHEN told_at IS NULL THEN tell_at ELSE now() END
    WHERE job_id = ANY($1) AND over_at IS NULL AND condition IN ('late', 'not_started', 'ran_over')"""

_RULES = """
    WITH ended AS MATERIALIZED (
        SELECT job_id, name, state, error, run_at, schedule_id, trigger_id, labels, finished_at,
            greatest(started_at, retried_at) AS began_at
        FROM jobs WHERE job_id = ANY($1) AND state IN ('succeeded', 'failed')
    )
    SELECT a.alert_id, a.conditions, j.job_id, j.name, j.state, j.error, j.run_at, j.schedule_id, j.trigger_id,
        s.name AS schedule, t.name AS trigger,
        extract(epoch FROM j.finished_at - j.began_at)::float8 AS seconds
    FROM ended AS j
    LEFT JOIN schedules AS s ON s.schedule_id = j.schedule_id
    LEFT JOIN triggers AS t ON t.trigger_id = j.trigger_id
    JOIN alerts AS a ON NOT a.paused AND a.created_at <= j.finished_at
      AND (a.job_id IS NULL OR a.job_id = j.job_id) AND (a.job_name IS NULL OR a.job_name = j.name)
      AND j.labels @> a.labels AND (a.schedule IS NULL OR a.schedule = s.name)
      AND (a.pool IS NULL OR EXISTS (
          SELECT FROM stages AS g WHERE g.job_id = j.job_id AND (g.pool = a.pool OR a.pool = ANY(g.pools))))
    WHERE a.conditions ?| '{failed,slowed,rejects,records}'
    ORDER BY j.job_id"""

_USUAL_OF_SCHEDULE = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)::float8 AS seconds, count(*) AS runs FROM (
        SELECT extract(epoch FROM finished_at - started_at)::float8 AS seconds FROM (
            SELECT state, started_at, finished_at, retried_at FROM jobs WHERE schedule_id = $1 AND run_at < $2
            ORDER BY run_at DESC LIMIT 100
        ) AS last WHERE state = 'succeeded' AND retried_at IS NULL LIMIT 20
    ) AS runs"""

_USUAL_OF_NAME = """
    SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY seconds)::float8 AS seconds, count(*) AS runs FROM (
        SELECT extract(epoch FROM finished_at - started_at)::float8 AS seconds FROM (
            SELECT state, started_at, finished_at, retried_at FROM jobs WHERE name = $1 AND job_id < $2
            ORDER BY job_id DESC LIMIT 100
        ) AS last WHERE state = 'succeeded' AND retried_at IS NULL LIMIT 20
    ) AS runs"""


async def look(context: Context) -> bool:
    """Look at the next ends; True if there were any."""
    async with context.database.acquire() as connection, connection.transaction():
        job_ids = [row["job_id"] for row in await connection.fetch(_TAKE, ENDS_MAX)]
        if job_ids:
            await connection.execute(_OVER, job_ids)
            rules = [dict(row) for row in await connection.fetch(_RULES, job_ids)]
            await record(connection, [finding async for finding in _findings(connection, rules)])
    return bool(job_ids)


class _Facts:
    """What takes statements to know of a job, asked for once however many rules ask."""

    def __init__(self, connection: Connection, job: Mapping[str, Any]) -> None:
        self._connection = connection
        self._job = job
        self._stages: list[dict[str, Any]] | None = None
        self._usual: Record | None = None

    async def stages(self) -> list[dict[str, Any]]:
        if self._stages is None:
            self._stages = await counted_stages(self._connection, self._job["job_id"])
        return self._stages

    async def usual(self) -> float | None:
        """Seconds; None: there are too few runs before it."""
        if self._usual is None:
            job = self._job
            if job["schedule_id"] is not None:
                self._usual = await self._connection.fetchrow(_USUAL_OF_SCHEDULE, job["schedule_id"], job["run_at"])
            else:
                self._usual = await self._connection.fetchrow(_USUAL_OF_NAME, job["name"], job["job_id"])
        assert self._usual is not None
        return self._usual["seconds"] if self._usual["runs"] >= RUNS_MIN else None


async def _findings(connection: Connection, rules: list[dict[str, Any]]) -> AsyncIterator[Finding]:
    facts: dict[UUID, _Facts] = {}
    for rule in rules:
        job, conditions = rule["job_id"], Conditions.read(rule["conditions"])
        subject = Subject.of_job(rule)
        of_job = facts.setdefault(job, _Facts(connection, rule))
        if conditions.failed:
            yield Finding(rule["alert_id"], "failed", subject, _failure(rule))
        if conditions.slowed is not None and rule["state"] == "succeeded":
            slow = _slowness(rule, await of_job.usual(), conditions.slowed)
            yield Finding(rule["alert_id"], "slowed", subject, slow)
        if conditions.rejects is not None:
            rejected = sum(stage["records_rejected"] for stage in await of_job.stages())
            yield Finding(rule["alert_id"], "rejects", subject, _rejects(rule, rejected, conditions.rejects))
        if conditions.records:
            yield Finding(rule["alert_id"], "records", subject, _uneven(rule, await of_job.stages()))


def _failure(job: Mapping[str, Any]) -> str | None:
    if job["state"] != "failed":
        return None
    return f"{job['name']} failed: {(job['error'] or {}).get('message', 'no error was recorded')}"


def _slowness(job: Mapping[str, Any], usual: float | None, factor: float) -> str | None:
    if usual is None or job["seconds"] is None or job["seconds"] <= usual * factor:
        return None
    return f"{job['name']} took {span(job['seconds'])}; usually it takes {span(usual)}"


def _rejects(job: Mapping[str, Any], rejected: int, limit: int) -> str | None:
    if rejected <= limit:
        return None
    return f"{job['name']} rejected {rejected:,} record{'s' * (rejected != 1)}; up to {limit:,} are allowed"


def _uneven(job: Mapping[str, Any], stages: list[dict[str, Any]]) -> str | None:
    _, reasons = check_records(stages)
    said = [reason.message for reason in reasons if reason.code == "records_uneven"]
    return f"the records of {job['name']} do not add up: {'; '.join(said)}" if said else None
