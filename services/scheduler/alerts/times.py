"""What rules find as time passes: jobs that are late, pools without workers, triggers that fail.

Each rule is looked at by one scheduler at a time. A job is looked at once for each limit, when it passes: a rule keeps
up to when it has looked, so that a look reads only the jobs whose time has come since, however many there are.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.engine.alerts import LASTING, Condition, Conditions
from services.platform.database import Connection
from services.scheduler.alerts.incidents import Finding, Subject, record
from services.scheduler.alerts.words import moment, span
from services.scheduler.loop import Context

LOOK_SECONDS = 30.0
ALERTS_MAX = 20  # per step
JOBS_MAX = 500  # that one look at a rule reads, of each condition: if there are more, it is looked at again at once
OPEN_MAX = 500  # of a rule and condition: the next ones wait until some are over
OVERLAP = timedelta(seconds=60)  # longer than the transactions that make a job known after its time
_BEFORE_ALL = UUID(int=0)

_CLAIM = """
    UPDATE alerts SET looks_at = now() + $1 * interval '1 second' WHERE alert_id = (
        SELECT alert_id FROM alerts
        WHERE NOT paused AND looks_at <= now() ORDER BY looks_at LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)
    RETURNING alert_id, conditions, looked_until, job_id, job_name, labels, schedule, pool, now() AS now"""

_LOOKED = """
    UPDATE alerts SET looked_until = $2, looks_at = CASE WHEN $3 THEN now() ELSE looks_at END WHERE alert_id = $1"""

_OPEN = "SELECT count(*) FROM incidents WHERE alert_id = $1 AND condition = $2 AND over_at IS NULL"

# The next jobs that have not ended, by the time at which they were due; none is read twice.
_DUE = """
    SELECT job_id, coalesce(run_at, created_at) AS since FROM jobs
    WHERE state NOT IN ('succeeded', 'failed', 'cancelled')
      AND coalesce(run_at, created_at) >= $1 AND coalesce(run_at, created_at) <= $3
      AND (coalesce(run_at, created_at), job_id) > ($1, $2)
    ORDER BY coalesce(run_at, created_at), job_id LIMIT $4"""

# The same by the time at which they started.
_BEGUN = """
    SELECT job_id, started_at AS since FROM jobs
    WHERE state NOT IN ('succeeded', 'failed', 'cancelled')
      AND started_at >= $1 AND started_at <= $3 AND (started_at, job_id) > ($1, $2)
    ORDER BY started_at, job_id LIMIT $4"""

_BY_TIME: dict[Condition, str] = {"late": _DUE, "not_started": _DUE, "ran_over": _BEGUN}

# Those of these jobs that the rule is about. They are read by their ids first: else, by the index of all labels.
_OF_RULE = """
    WITH due AS MATERIALIZED (
        SELECT job_id, name, state, schedule_id, trigger_id, labels FROM jobs WHERE job_id = ANY($1)
    )
    SELECT j.job_id, j.name, j.state, j.schedule_id, j.trigger_id, s.name AS schedule, t.name AS trigger
    FROM due AS j
    LEFT JOIN schedules AS s ON s.schedule_id = j.schedule_id
    LEFT JOIN triggers AS t ON t.trigger_id = j.trigger_id
    WHERE ($2::uuid IS NULL OR j.job_id = $2) AND ($3::text IS NULL OR j.name = $3) AND j.labels @> $4
      AND ($5::text IS NULL OR s.name = $5)
      AND ($6::text IS NULL OR EXISTS (
          SELECT FROM stages AS g WHERE g.job_id = j.job_id AND (g.pool = $6 OR $6 = ANY(g.pools))))"""

_HAVE_STARTED = """
    SELECT DISTINCT g.job_id FROM stages AS g CROSS JOIN LATERAL stage_sums(g.job_id, g.stage) AS c
    WHERE g.job_id = ANY($1) AND (c.running > 0 OR c.attempts > 0)"""

# Schedules whose due run has no job yet, such as one that a quota puts off.
_UNSUBMITTED = """
    SELECT schedule_id, name, next_run_at AS since, error FROM schedules
    WHERE NOT paused AND next_run_at <= $1 AND ($2::text IS NULL OR name = $2)
      AND ($3::text IS NULL OR job ->> 'name' = $3) AND coalesce(job -> 'labels', '{}') @> $4
    ORDER BY next_run_at LIMIT $5"""

# A schedule's run that has its job by now goes on as that job's; it is over if that has ended, or the schedule is gone.
_SUBMITTED = """
    UPDATE incidents AS i SET job_id = CASE WHEN active.is THEN s.last_job_id END,
        over_at = CASE WHEN active.is THEN NULL ELSE now() END, last_at = now(),
        tell_at = CASE WHEN active.is OR i.told_at IS NULL THEN i.tell_at ELSE now() END
    FROM incidents AS same LEFT JOIN schedules AS s ON s.schedule_id = same.subject::uuid
    CROSS JOIN LATERAL (SELECT EXISTS (
        SELECT FROM jobs AS j
        WHERE j.job_id = s.last_job_id AND j.state NOT IN ('succeeded', 'failed', 'cancelled')) AS is) AS active
    WHERE same.alert_id = $1 AND same.condition = $2 AND same.over_at IS NULL AND same.subject_kind = 'schedule'
      AND same.job_id IS NULL AND (s.next_run_at IS NULL OR s.paused OR s.next_run_at > $3)
      AND i.incident_id = same.incident_id"""

_STARTED = """
    UPDATE incidents AS i SET over_at = now(), last_at = now(),
        tell_at = CASE WHEN i.told_at IS NULL THEN i.tell_at ELSE now() END
    WHERE i.alert_id = $1 AND i.condition = 'not_started' AND i.over_at IS NULL AND i.job_id IS NOT NULL
      AND EXISTS (
          SELECT FROM stages AS g CROSS JOIN LATERAL stage_sums(g.job_id, g.stage) AS c
          WHERE g.job_id = i.job_id AND (c.running > 0 OR c.attempts > 0))"""

_POOLS = """
    SELECT p.name, min(b.queued_at) AS since FROM pools AS p JOIN bundles AS b ON b.pool = p.name
    WHERE b.worker_id IS NULL AND NOT p.paused AND ($2::text IS NULL OR p.name = $2)
      AND NOT EXISTS (SELECT FROM workers AS w WHERE w.pool = p.name AND w.state = 'active')
    GROUP BY p.name HAVING min(b.queued_at) <= $1"""

_TRIGGERS = """
    SELECT trigger_id, name, last_error FROM triggers
    WHERE NOT paused
      AND (unreadable_since IS NOT NULL OR last_error_at > coalesce(last_message_at, '-infinity'))
      AND ($1::text IS NULL OR job ->> 'name' = $1) AND coalesce(job -> 'labels', '{}') @> $2
    ORDER BY name LIMIT $3"""

_SCHEDULES = """
    SELECT schedule_id, name, error FROM schedules
    WHERE error IS NOT NULL AND ($1::text IS NULL OR name = $1) AND ($2::text IS NULL OR job ->> 'name' = $2)
      AND coalesce(job -> 'labels', '{}') @> $3
    ORDER BY name LIMIT $4"""

_NO_MORE = """
    UPDATE incidents SET over_at = now(), last_at = now(),
        tell_at = CASE WHEN told_at IS NULL THEN tell_at ELSE now() END
    WHERE alert_id = $1 AND condition = $2 AND over_at IS NULL AND subject <> ALL($3::text[])"""


async def look(context: Context) -> bool:
    """Look at rules whose turn it is, each in a transaction of its own; True if there may be more."""
    for _ in range(ALERTS_MAX):
        async with context.database.acquire() as connection, connection.transaction():
            alert = await connection.fetchrow(_CLAIM, LOOK_SECONDS)
            if alert is None:
                return False
            await _look_at(connection, alert)
    return True


async def _look_at(connection: Connection, alert: Record) -> None:
    conditions, looked_until = Conditions.read(alert["conditions"]), dict(alert["looked_until"])
    has_more = False
    for condition in _BY_TIME:
        limit: float | None = getattr(conditions, condition)
        if limit is not None:
            looked_until[condition] = await _pass_time(connection, alert, condition, limit)
            has_more |= "job_id" in looked_until[condition]
    await connection.execute(_LOOKED, alert["alert_id"], looked_until, has_more)
    if conditions.no_workers is not None:
        await _settle(connection, alert, "no_workers", await _empty_pools(connection, alert, conditions.no_workers))
    if conditions.trigger_failed:
        await _settle(connection, alert, "trigger_failed", await _failing_triggers(connection, alert))


async def _pass_time(connection: Connection, alert: Record, condition: Condition, limit: float) -> dict[str, str]:
    """Find the jobs whose time has passed since the last look.

    Returns up to when jobs have been looked at; in the midst of them, also the last of them.
    """
    alert_id, until = alert["alert_id"], alert["now"] - timedelta(seconds=limit)
    if condition == "not_started":
        await connection.execute(_STARTED, alert_id)
    if condition != "ran_over":
        await connection.execute(_SUBMITTED, alert_id, condition, until)
        await _find_unsubmitted(connection, alert, condition, until)
    looked: dict[str, str] = alert["looked_until"].get(condition, {})
    rows = await connection.fetch(_BY_TIME[condition], *_position(looked), until, JOBS_MAX)
    if not rows:
        return {"at": until.isoformat()}
    room = max(OPEN_MAX - await connection.fetchval(_OPEN, alert_id, condition), 0)
    if not room:
        return {name: value for name, value in looked.items() if name == "at"}
    jobs = {row["job_id"]: row["since"] for row in rows[:room]}
    scope = [alert[name] for name in ("job_id", "job_name", "labels", "schedule", "pool")]
    found = [dict(row) for row in await connection.fetch(_OF_RULE, list(jobs), *scope)]
    if condition == "not_started" and found:
        started = await connection.fetch(_HAVE_STARTED, [job["job_id"] for job in found])
        found = [job for job in found if job["job_id"] not in {row["job_id"] for row in started}]
    said = (_say(condition, job | {"since": jobs[job["job_id"]]}, limit) for job in found)
    findings = (Finding(alert_id, condition, Subject.of_job(job), text) for job, text in zip(found, said, strict=True))
    await record(connection, findings, LASTING)
    if len(jobs) == len(rows) < JOBS_MAX:
        return {"at": until.isoformat()}
    last, since = list(jobs.items())[-1]
    return {"at": since.isoformat(), "job_id": str(last)}


def _position(looked: dict[str, str]) -> tuple[datetime, UUID]:
    """After which to go on. Jobs that became known late are found in an overlap, once all others have been read."""
    if not looked:
        return datetime(1970, 1, 1, tzinfo=UTC), _BEFORE_ALL
    at = datetime.fromisoformat(looked["at"])
    return (at, UUID(looked["job_id"])) if "job_id" in looked else (at - OVERLAP, _BEFORE_ALL)


async def _find_unsubmitted(connection: Connection, alert: Record, condition: Condition, until: datetime) -> None:
    if alert["job_id"] is not None or alert["pool"] is not None:
        return
    scope = [alert[name] for name in ("schedule", "job_name", "labels")]
    findings = [
        Finding(
            alert["alert_id"],
            condition,
            Subject("schedule", str(row["schedule_id"]), row["name"]),
            _say_unsubmitted(dict(row)),
        )
        for row in await connection.fetch(_UNSUBMITTED, until, *scope, JOBS_MAX)
    ]
    await record(connection, findings, LASTING)


def _say(condition: Condition, job: Mapping[str, Any], limit: float) -> str:
    since, name = moment(job["since"]), job["name"]
    if condition == "ran_over":
        return f"{name} has not ended {span(limit)} after it started ({since}): it is {job['state']}"
    if condition == "not_started":
        return f"no task of {name} has started {span(limit)} after it was due ({since}): it is {job['state']}"
    return f"{name} has not ended {span(limit)} after it was due ({since}): it is {job['state']}"


def _say_unsubmitted(schedule: Mapping[str, Any]) -> str:
    why = f": {schedule['error']}" if schedule["error"] else ""
    return f"the schedule {schedule['name']} has no job yet for its run of {moment(schedule['since'])}{why}"


async def _settle(
    connection: Connection, alert: Record, condition: Condition, found: Iterable[tuple[Subject, str]]
) -> None:
    """Open what holds now, and close what does no more."""
    subjects = dict(found)
    await connection.execute(_NO_MORE, alert["alert_id"], condition, [subject.subject for subject in subjects])
    findings = [Finding(alert["alert_id"], condition, subject, message) for subject, message in subjects.items()]
    await record(connection, findings, LASTING)


async def _empty_pools(connection: Connection, alert: Record, limit: float) -> list[tuple[Subject, str]]:
    until = alert["now"] - timedelta(seconds=limit)
    return [
        (
            Subject("pool", pool["name"], pool["name"]),
            f"the pool {pool['name']} has no worker; its tasks have waited since {moment(pool['since'])}",
        )
        for pool in await connection.fetch(_POOLS, until, alert["pool"])
    ]


async def _failing_triggers(connection: Connection, alert: Record) -> list[tuple[Subject, str]]:
    """Those of triggers, unless the rule is of a schedule; and schedules whose last run made no job."""
    name, labels, schedule = alert["job_name"], alert["labels"], alert["schedule"]
    triggers = [] if schedule is not None else await connection.fetch(_TRIGGERS, name, labels, OPEN_MAX)
    schedules = await connection.fetch(_SCHEDULES, schedule, name, labels, OPEN_MAX)
    return [
        *(
            (Subject("trigger", str(row["trigger_id"]), row["name"]), f"trigger {row['name']}: {row['last_error']}")
            for row in triggers
        ),
        *(
            (Subject("schedule", str(row["schedule_id"]), row["name"]), f"schedule {row['name']}: {row['error']}")
            for row in schedules
        ),
    ]
