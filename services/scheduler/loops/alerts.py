"""Alerts: rules look at what has ended and at what is late, and what they find is told, at least once.

Whatever a rule finds is recorded in one transaction with the fact that it looked; what it tells, with the fact that it
told. So schedulers share the work without a leader, and one that dies leaves no more than a look to be repeated.
"""

from uuid import UUID

import structlog
from asyncpg import Record

from services.scheduler.alerts import ends, tell, times
from services.scheduler.alerts.send import deliver
from services.scheduler.loop import Context
from services.scheduler.metrics import ALERT_MESSAGES
from services.scheduler.outgoing import LEASE_SECONDS, Client, Sender

log = structlog.get_logger()

MESSAGES_AT_ONCE = 64
ALERT_AT_ONCE = 4  # of one rule: a receiver that is slow leaves room for the others

# Most steps find nothing: this takes one statement and no transaction.
_LOOK = """
    SELECT EXISTS (SELECT FROM ended_jobs) AS ended,
        EXISTS (SELECT FROM alerts WHERE NOT paused AND looks_at <= now()) AS passed,
        EXISTS (SELECT FROM incidents WHERE tell_at <= now()) AS due"""

# A message whose try lasts longer than its lease is not tried beside that ($4).
_TAKE = """
    WITH due AS (
        SELECT message_id, alert_id, next_try_at FROM alert_messages
        WHERE state = 'pending' AND next_try_at <= now() AND message_id <> ALL($4::uuid[])
        ORDER BY next_try_at LIMIT 4 * $1 FOR NO KEY UPDATE SKIP LOCKED
    ), placed AS (
        SELECT message_id, row_number() OVER (PARTITION BY alert_id ORDER BY next_try_at) AS place FROM due
    )
    UPDATE alert_messages AS m SET tries = m.tries + 1, next_try_at = now() + $2 * interval '1 second'
    FROM placed AS p, alerts AS a
    WHERE m.message_id = p.message_id AND p.place <= $3 AND a.alert_id = m.alert_id
    RETURNING m.message_id, m.alert_id, m.event, m.payload, m.tries, a.name, a.channel, a.address, a.sealed,
        a.generation, a.secret_digest"""

_DELIVERED = """
    UPDATE alert_messages SET state = 'delivered', error = $2, delivered_at = now() WHERE message_id = $1"""

_NOT_DELIVERED = """
    UPDATE alert_messages SET error = $2, next_try_at = now() + $3 * interval '1 second',
        state = CASE WHEN $4 OR now() + $3 * interval '1 second' > give_up_at THEN 'failed' ELSE 'pending' END
    WHERE message_id = $1 AND state = 'pending' RETURNING state"""


async def step(context: Context) -> bool:
    """Look and tell; True while there is more to be looked at."""
    look = await context.database.fetchrow(_LOOK)
    assert look is not None
    ended = look["ended"] and await ends.look(context)
    passed = look["passed"] and await times.look(context)
    told = any(look.values()) and await tell.tell(context)
    return bool(ended or passed or told)


class Teller(Sender[UUID]):
    """Delivers messages."""

    async def step(self, context: Context) -> bool:
        """Start deliveries that are due, as far as there is room; True if there were any."""
        tried = self._slots.keys
        free = MESSAGES_AT_ONCE - len(tried)
        due = await context.database.fetch(_TAKE, free, LEASE_SECONDS, ALERT_AT_ONCE, tried) if free else []
        for message in due:
            self._slots.start(message["message_id"], _deliver(context, self._client, message))
        return bool(due)


async def _deliver(context: Context, client: Client, message: Record) -> None:
    message_id, channel = message["message_id"], message["channel"]
    failure = await deliver(client, dict(message), context.settings)
    if failure is None or failure.partial:  # another try would go to those who have it, too
        await context.database.execute(_DELIVERED, message_id, failure and failure.error)
        ALERT_MESSAGES.labels(channel, "delivered").inc()
    else:
        pause = failure.pause(message["tries"])
        await context.database.fetchval(_NOT_DELIVERED, message_id, failure.error, pause, failure.gone)
        ALERT_MESSAGES.labels(channel, "not delivered").inc()
    if failure is None:
        return
    log.warning(
        "alert not delivered to some" if failure.partial else "alert not delivered",
        alert=message["name"],
        message=str(message_id),
        tries=message["tries"],
        error=failure.error,
    )
