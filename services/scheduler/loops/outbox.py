"""Outbox: sends the messages of succeeded tasks and ended jobs to users' queues, at least once and in order.

The order is that of the transactions that recorded them. A row is sent once no older transaction is running.
"""

import random
from collections.abc import Sequence
from contextlib import suppress

import orjson
from asyncpg import Record

from services.platform.database import UNAVAILABLE, Connection
from services.scheduler.loop import Context
from services.scheduler.queues import batches, send_entries
from services.scheduler.slots import Slots

MESSAGES_MAX = 100  # of a queue, under one lock
LOCK_SECONDS = 15.0  # a session that says nothing for this long has lost the lock; more than a request takes
QUEUES_AT_ONCE = 4  # each holds a connection, and the other loops need some too when SQS is slow
REST_SECONDS = 5.0
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

# A session's lock, since no transaction waits for SQS. A process that stands still loses it with its session.
_LOCK = """
    SELECT set_config('idle_session_timeout', $2, false) <> '' AND pg_try_advisory_lock(
        hashtextextended('queue ' || $1, 0))"""
_UNLOCK = """
    SELECT set_config('idle_session_timeout', '0', false),
        CASE WHEN $2 THEN pg_advisory_unlock(hashtextextended('queue ' || $1, 0)) END"""

_NEXT = """
    SELECT txid, message_id, job_id, body FROM queue_messages
    WHERE queue_url = $1 AND txid < oldest_transaction()
    ORDER BY txid, message_id LIMIT $2"""

_SENT = """
    DELETE FROM queue_messages AS m USING unnest($2::xid8[], $3::bigint[]) AS sent (txid, message_id)
    WHERE m.queue_url = $1 AND m.txid = sent.txid AND m.message_id = sent.message_id"""


async def step(context: Context) -> bool:
    """Send the next messages of some queues, none of which waits for another; True while there are any to send.

    A queue that does not take its messages rests.
    """
    slots: Slots[str] = context.slots["outbox"]

    async def tell(queue_url: str) -> None:
        if not await _tell(context, queue_url):
            slots.rest(queue_url, REST_SECONDS)

    urls = {row["queue_url"] for row in await context.database.fetch(_QUEUES)}.difference(slots.keys)
    chosen = random.sample(sorted(urls), min(len(urls), slots.free(QUEUES_AT_ONCE)))
    await slots.advance({url: tell(url) for url in chosen})
    return bool(urls)


async def _tell(context: Context, queue_url: str) -> bool:
    """Send under a lock, or the order would be lost; False if the queue does not take its messages."""
    async with context.database.acquire() as connection:
        locked = False
        try:
            locked = await connection.fetchval(_LOCK, queue_url, str(round(1000 * LOCK_SECONDS)))
            if not locked:
                return False
            rows = await connection.fetch(_NEXT, queue_url, MESSAGES_MAX)
            for batch in batches(rows):
                if not await _send(context, connection, queue_url, batch):
                    return False
            return True
        finally:
            with suppress(*UNAVAILABLE):  # the lock is gone with its session
                await connection.fetchval(_UNLOCK, queue_url, locked)


async def _send(context: Context, connection: Connection, queue_url: str, batch: Sequence[Record]) -> bool:
    """Send one request's messages, and forget those that the queue took; whether it took all.

    To forget them on the lock's own connection shows that the lock is still held.
    """
    entries = [_entry(queue_url, number, row) for number, row in enumerate(batch)]
    failed = await send_entries(context, queue_url, entries)
    sent = [row for number, row in enumerate(batch) if number not in failed]
    await connection.execute(_SENT, queue_url, [row["txid"] for row in sent], [row["message_id"] for row in sent])
    return not failed


def _entry(queue_url: str, number: int, row: Record) -> dict[str, str]:
    """For a FIFO queue: order per job, and an id by which it drops duplicates."""
    entry = {"Id": str(number), "MessageBody": orjson.dumps(row["body"]).decode().translate(_REFUSED)}
    if queue_url.endswith(".fifo"):
        entry |= {"MessageGroupId": str(row["job_id"]), "MessageDeduplicationId": str(row["message_id"])}
    return entry
