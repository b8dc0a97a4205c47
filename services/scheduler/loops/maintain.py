"""Maintain: make partitions for coming months, drop those of past ones, and delete rows that are no longer needed.

Partitions are made and dropped by functions with their owner's rights (migration 0012), which give up on a table that
is in use for long: the next round tries again.
"""

import structlog

from services.engine import left_rows
from services.scheduler.loop import Context

log = structlog.get_logger()

ROWS_MAX = 1_000  # deleted per statement

_EXPIRED = (
    # A queue that is gone for this long is not coming back (SQS itself keeps messages as long by default).
    """DELETE FROM queue_messages WHERE ctid IN (
        SELECT ctid FROM queue_messages WHERE created_at < now() - interval '4 days' LIMIT $1)""",
    # An Idempotency-Key is remembered for a day.
    """DELETE FROM idempotency_keys WHERE ctid IN (
        SELECT ctid FROM idempotency_keys WHERE created_at < now() - interval '1 day' LIMIT $1)""",
    """DELETE FROM webhook_deliveries WHERE ctid IN (
        SELECT ctid FROM webhook_deliveries
        WHERE state <> 'pending' AND created_at < now() - interval '30 days' LIMIT $1)""",
    """DELETE FROM alert_messages WHERE ctid IN (
        SELECT ctid FROM alert_messages
        WHERE state <> 'pending' AND created_at < now() - interval '30 days' LIMIT $1)""",
    # One that is still open by then, such as a failed job that nobody retried, is nobody's concern any more.
    """DELETE FROM incidents WHERE ctid IN (
        SELECT ctid FROM incidents WHERE last_at < now() - interval '90 days' LIMIT $1)""",
    "DELETE FROM schedulers WHERE ctid IN ("
    "SELECT ctid FROM schedulers WHERE heartbeat_at < now() - interval '1 day' LIMIT $1)",
    """DELETE FROM workers WHERE ctid IN (
        SELECT ctid FROM workers AS w WHERE state IN ('stopped', 'lost') AND stopped_at < now() - interval '7 days'
          AND NOT EXISTS (SELECT FROM bundles AS b WHERE b.worker_id = w.worker_id) LIMIT $1)""",
)


# What a trigger of the table lets go (migration 0007) and no more is wanted.
_EXPIRE_AUDIT = """
    DELETE FROM audit_log WHERE ctid IN (
        SELECT ctid FROM audit_log WHERE at < now() - $2 * interval '1 day' LIMIT $1)"""
# A secret that a release before has stored signs until the end of its rotation's overlap.
_FORGET_SECRETS = """
    UPDATE webhook_endpoints SET secret = ''
    WHERE generation > 0 AND secret <> '' AND (previous_until IS NULL OR previous_until < now())"""


async def step(context: Context) -> bool:
    """One round; True if there was more to delete than one round takes."""
    await _keep_partitions(context)
    await context.database.execute(_FORGET_SECRETS)
    statuses = [await context.database.execute(statement, ROWS_MAX) for statement in _EXPIRED]
    statuses.append(await context.database.execute(_EXPIRE_AUDIT, ROWS_MAX, context.settings.audit_days))
    return f"DELETE {ROWS_MAX}" in statuses


async def _keep_partitions(context: Context) -> None:
    if not await context.database.fetchval("SELECT make_partitions()"):
        log.warning("no partition made for a month to come: the table is in use")
    while name := await context.database.fetchval("SELECT drop_partitions()"):
        log.info("partition dropped", partition=name)
    await left_rows.forget_months(context.database)
