"""Incidents become messages: each for itself while they are few, else one summary; and none in quiet hours."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from asyncpg import Record

from services.engine.alerts import LASTING, AlertEvent, QuietHours
from services.platform.database import WEBHOOKS_CHANNEL, Connection, new_id, notify
from services.scheduler.alerts.words import moment
from services.scheduler.loop import Context

ALERTS_MAX = 20  # per step
INCIDENTS_MAX = 500  # of a rule at once
SINGLE_MAX = 3  # incidents that are told at once, each in a message of its own
SHOWN_MAX = 20  # in a summary
# A rule sends no more than this many messages in such a time; what comes after is held, and told in one summary.
MESSAGES_MAX = 10
MESSAGES_SECONDS = 600.0

_DUE = """
    SELECT DISTINCT alert_id FROM (
        SELECT alert_id FROM incidents WHERE tell_at <= now() ORDER BY tell_at LIMIT $1) AS due LIMIT $2"""

_LOCK = """
    SELECT alert_id, name, repeat_seconds, quiet, urgent, paused, now() AS now FROM alerts
    WHERE alert_id = $1 FOR NO KEY UPDATE SKIP LOCKED"""

_INCIDENTS = """
    SELECT incident_id, condition, subject_kind, subject, name, job_id, message, times, found_at, last_at, over_at, held
    FROM incidents WHERE alert_id = $1 AND tell_at <= now() ORDER BY tell_at, incident_id LIMIT $2
    FOR NO KEY UPDATE"""

_HOLD = "UPDATE incidents SET tell_at = $2, held = true WHERE incident_id = ANY($1)"

_SENT = """
    SELECT count(*), min(created_at) AS first_at FROM (
        SELECT created_at FROM alert_messages WHERE alert_id = $1 AND created_at > now() - $2 * interval '1 second'
        ORDER BY created_at DESC LIMIT $3) AS sent"""

_WRITE = """
    INSERT INTO alert_messages (message_id, alert_id, event, payload, give_up_at)
    VALUES ($1, $2, $3, $4, now() + $5 * interval '1 hour')"""

# What lasts is told again after a time, until it is over.
_TOLD = """
    UPDATE incidents SET told_at = now(), held = false,
        tell_at = CASE WHEN over_at IS NULL AND condition = ANY($3::text[]) THEN now() + $2 * interval '1 second' END
    WHERE incident_id = ANY($1)"""


async def tell(context: Context) -> bool:
    """Write the messages of some rules that have something to tell; True if any had."""
    due = await context.database.fetch(_DUE, INCIDENTS_MAX, ALERTS_MAX)
    for row in due:
        async with context.database.acquire() as connection, connection.transaction():
            await _tell_of(connection, row["alert_id"], context.settings.webhook_hours)
    return bool(due)


async def _tell_of(connection: Connection, alert_id: UUID, hours: float) -> None:
    alert = await connection.fetchrow(_LOCK, alert_id)
    if alert is None:  # deleted, or another scheduler tells
        return
    incidents = await connection.fetch(_INCIDENTS, alert_id, INCIDENTS_MAX)
    ids = [incident["incident_id"] for incident in incidents]
    held_until = None if alert["paused"] else await _held_until(connection, alert)
    if alert["paused"] or held_until is not None:
        await connection.execute(_HOLD, ids, held_until)
        return
    if len(incidents) <= SINGLE_MAX and not any(incident["held"] for incident in incidents):
        for incident in incidents:
            event: AlertEvent = "alert.raised" if incident["over_at"] is None else "alert.over"
            await write(connection, alert, event, [incident], hours)
    elif incidents:
        await write(connection, alert, "alert.summary", incidents, hours)
    await connection.execute(_TOLD, ids, alert["repeat_seconds"], list(LASTING))


async def _held_until(connection: Connection, alert: Record) -> datetime | None:
    """Until when the rule tells nothing: the end of its quiet hours, or of the time in which it has sent enough."""
    now: datetime = alert["now"]
    if alert["quiet"] is not None and not alert["urgent"]:
        until = QuietHours.model_validate(alert["quiet"]).until(now)
        if until is not None:
            return until
    sent = await connection.fetchrow(_SENT, alert["alert_id"], MESSAGES_SECONDS, MESSAGES_MAX)
    if sent is None or sent["count"] < MESSAGES_MAX:
        return None
    first: datetime = sent["first_at"]
    return first + timedelta(seconds=MESSAGES_SECONDS)


async def write(
    connection: Connection, alert: Record, event: AlertEvent, incidents: Sequence[Record], hours: float
) -> None:
    """Record a message in the outbox."""
    title, text = _say(alert["name"], event, incidents)
    data = {
        "alert_id": alert["alert_id"],
        "alert": alert["name"],
        "title": title,
        "text": text,
        "count": len(incidents),
        "incidents": [_show(incident) for incident in incidents[:SHOWN_MAX]],
    }
    payload = {"type": event, "timestamp": alert["now"].isoformat(), "data": data}
    await connection.execute(_WRITE, new_id(), alert["alert_id"], event, payload, hours)
    await notify(connection, WEBHOOKS_CHANNEL)


_SHOWN = ("incident_id", "condition", "subject_kind", "subject", "name", "job_id", "message", "times")


def _show(incident: Record) -> dict[str, Any]:
    times = {name: incident[name] and incident[name].isoformat() for name in ("found_at", "last_at", "over_at")}
    return {name: incident[name] for name in _SHOWN} | times


def _say(alert: str, event: AlertEvent, incidents: Sequence[Record]) -> tuple[str, str]:
    """The title and the text, for people."""
    if event == "alert.summary":
        title = f"{alert}: {len(incidents):,} incidents"
        lines = [f"- {_line(incident)}" for incident in incidents[:SHOWN_MAX]]
        more = len(incidents) - len(lines)
        return title, "\n".join([*lines, *([f"and {more:,} more"] if more else [])])
    [incident] = incidents
    over = "over: " if event == "alert.over" else ""
    job = [f"Job {incident['job_id']}"] if incident["job_id"] is not None else []
    title = f"{alert}: {over}{incident['condition'].replace('_', ' ')}: {incident['name']}"
    return title, "\n".join([_line(incident), *job])


def _line(incident: Record) -> str:
    over = "" if incident["over_at"] is None else f"Over since {moment(incident['over_at'])}: "
    again = "" if incident["times"] == 1 else f" ({incident['times']:,} times since {moment(incident['found_at'])})"
    return f"{over}{incident['message']}{again}"
