"""Outbox: sends the messages of succeeded tasks and ended jobs to users' queues, at least once and in order.

The order is that of the transactions that recorded them. A row is sent once no older transaction is running.
"""

import orjson
from asyncpg import Record

from services.platform.concurrency import map_at_most
from services.scheduler.loop import Context
from services.scheduler.queues import batches, send_entries

MESSAGES_MAX = 100  # of a queue, per transaction
QUEUES_AT_ONCE = 4  # each holds a connection, and the other loops need some too when SQS is slow
_REFUSED = str.maketrans({"\ufffe": "\\ufffe", "\uffff": "\\uffff"})  # characters that SQS refuses, as escaped in JSON

# The distinct queues, without reading all of their messages.
_QUEUES = """
    WITH RECURSIVE queue AS (
        (SELECT queue_url FROM queue_messages ORDER BY queue_url LIMIT 1)
        UNION ALL SELECT (
            SELECT m.queue_url FROM queue_messages AS m WHERE m.queue_url > queue.queue_url ORDER BY 1 LIMIT 1
        ) FROM queue WHERE queue_url IS NOT NULL
    )
    SELECT queue_url FROM queue WHERE queue_url IS NOT NULL"""

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended('queue ' || $1, 0))"

_NEXT = """
    SELECT txid, message_id, job_id, body FROM queue_messages
    WHERE queue_url = $1 AND txid < pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY txid, message_id LIMIT $2"""

_SENT = """
    DELETE FROM queue_messages AS m USING unnest($2::xid8[], $3::bigint[]) AS sent (txid, message_id)
    WHERE m.queue_url = $1 AND m.txid = sent.txid AND m.message_id = sent.message_id"""


async def step(context: Context) -> bool:
    """Send the next messages of every queue; True while there are any to send."""
    urls = [row["queue_url"] for row in await context.database.fetch(_QUEUES)]
    return any(await map_at_most(QUEUES_AT_ONCE, lambda url: _tell(context, url), urls))


async def _tell(context: Context, queue_url: str) -> bool:
    """Send under a lock, or the order would be lost; False if the queue does not take its messages."""
    async with context.database.acquire() as connection, connection.transaction():
        if not await connection.fetchval(_LOCK, queue_url):
            return False
        rows = await connection.fetch(_NEXT, queue_url, MESSAGES_MAX)
        sent = await _send(context, queue_url, rows)
        await connection.execute(_SENT, queue_url, [row["txid"] for row in sent], [row["message_id"] for row in sent])
        return len(sent) == len(rows)


async def _send(context: Context, queue_url: str, rows: list[Record]) -> list[Record]:
    """Send ten after ten, until the queue refuses some; returns those that it took."""
    sent: list[Record] = []
    for batch in batches(rows):
        entries = [_entry(queue_url, number, row) for number, row in enumerate(batch)]
        failed = await send_entries(context, queue_url, entries)
        sent += [row for number, row in enumerate(batch) if number not in failed]
        if failed:
            break
    return sent


def _entry(queue_url: str, number: int, row: Record) -> dict[str, str]:
    """For a FIFO queue: order per job, and an id by which it drops duplicates."""
    entry = {"Id": str(number), "MessageBody": orjson.dumps(row["body"]).decode().translate(_REFUSED)}
    if queue_url.endswith(".fifo"):
        entry |= {"MessageGroupId": str(row["job_id"]), "MessageDeduplicationId": str(row["message_id"])}
    return entry
