"""Triggers: messages in users' queues become jobs, one for each event, however often it is told.

The schedulers that live share the triggers among themselves, by their heartbeats.
"""

import asyncio
import hashlib
import socket
import time
from contextlib import suppress
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from asyncpg import Record
from botocore.exceptions import BotoCoreError, ClientError
from pydantic import ValidationError

from services.engine.audit import record_submission
from services.engine.errors import explain
from services.engine.quotas import QuotaExceeded, look_for_room
from services.engine.spec import JobSpec
from services.engine.submission import submit_job
from services.engine.templates import fill_template
from services.platform.concurrency import is_cancelled
from services.platform.database import UNAVAILABLE, Connection, new_id, storable
from services.scheduler.events import Event, read_events
from services.scheduler.loop import PASSING, Context
from services.scheduler.slots import Slots

log = structlog.get_logger()

WAIT_SECONDS = 20  # of a receive, the longest that SQS offers: an idle queue costs three requests a minute
MORE_WAIT_SECONDS = 1  # of those beside it, while a queue is long
ANSWER_SECONDS = 10.0  # beyond the wait: a queue whose answer takes longer can't be read
MESSAGES_MAX = 10  # SQS gives no more at once
RECEIVERS_MAX = 4  # of a queue: one waits, and the others are there while receives are at least half full
FIRES_AT_ONCE = 8  # messages of all queues: each holds a connection to the database
LISTENS_AT_ONCE = 512  # of the client's connections to SQS: dispatch must not wait for one
PUT_OFF_SECONDS = 900  # a message that is over a quota comes again after this long
PAUSE_SECONDS_FIRST = 5.0  # before another try of a queue that can't be read, or without room for its jobs
PAUSE_SECONDS_MAX = 60.0

HEARTBEAT_SECONDS = 3.0
LIVE_SECONDS = 15.0  # a scheduler without a heartbeat for this long leaves its triggers to the others

# Faults of the message (or the template): it comes back until the queue's redrive policy removes it.
# (Of a message of another shape than its kind promises, or a very deep one, the reading itself breaks; Postgres stores
# no NUL characters, and no long text in an index.)
_UNUSABLE = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    *(asyncpg.DataError, asyncpg.ProgramLimitExceededError),
)

TRIGGERS = """
    SELECT trigger_id, name, queue_url, prefix, suffix, match, job, created_by, key_id FROM triggers WHERE NOT paused"""

# A trigger that was paused or deleted since the receive leaves its messages alone.
_HOLD = "SELECT FROM triggers WHERE trigger_id = $1 AND NOT paused FOR SHARE"

_FIRED = """
    UPDATE triggers SET last_job_id = coalesce($2, last_job_id), last_message_at = now(),
        lag_seconds = coalesce($3, lag_seconds)
    WHERE trigger_id = $1"""

_READABLE = "UPDATE triggers SET unreadable_since = NULL WHERE trigger_id = $1 AND unreadable_since IS NOT NULL"
_UNREADABLE = "UPDATE triggers SET unreadable_since = coalesce(unreadable_since, now()) WHERE trigger_id = $1"

_BEAT = """
    INSERT INTO schedulers (scheduler_id, hostname) VALUES ($1, $2)
    ON CONFLICT (scheduler_id) DO UPDATE SET heartbeat_at = now()"""
_LIVE = "SELECT scheduler_id FROM schedulers WHERE heartbeat_at > now() - $1 * interval '1 second'"
_LEAVE = "DELETE FROM schedulers WHERE scheduler_id = $1"


class Gates:
    """How much goes on at once, for all triggers of this scheduler."""

    def __init__(self) -> None:
        self.listens = asyncio.Semaphore(LISTENS_AT_ONCE)
        self.fires = asyncio.Semaphore(FIRES_AT_ONCE)


class Listeners:
    """A task for each trigger, so that none waits for another. Each trigger has one scheduler that listens for it."""

    def __init__(self) -> None:
        self._scheduler_id = new_id()
        self._live: list[UUID] = []
        self._beaten = -HEARTBEAT_SECONDS
        self._slots = Slots[UUID]()
        self._triggers: dict[UUID, Record] = {}  # as those that listen know them
        self._gates = Gates()

    async def step(self, context: Context) -> bool:
        """Start and stop listening, as triggers and schedulers come, change and go; True while there are triggers."""
        await self._beat(context)
        rows = await context.database.fetch(TRIGGERS)
        mine = {row["trigger_id"]: row for row in rows if self._is_mine(row["trigger_id"])}
        for trigger_id in self._slots.keys:
            if self._triggers[trigger_id] != mine.get(trigger_id):
                self._slots.cancel(trigger_id)
        for trigger_id in mine.keys() - set(self._slots.keys):
            self._triggers[trigger_id] = mine[trigger_id]
            self._slots.start(trigger_id, _listen(context, mine[trigger_id], self._gates))
        return bool(rows)

    async def stop(self, context: Context) -> None:
        """Stop listening, and leave the triggers to the other schedulers."""
        await self._slots.stop()
        with suppress(*UNAVAILABLE, asyncpg.PostgresError):  # they find out by themselves, only later
            async with asyncio.timeout(1.0):
                await context.database.execute(_LEAVE, self._scheduler_id)

    async def _beat(self, context: Context) -> None:
        if time.monotonic() - self._beaten >= HEARTBEAT_SECONDS:
            await context.database.execute(_BEAT, self._scheduler_id, socket.gethostname())
            rows = await context.database.fetch(_LIVE, LIVE_SECONDS)
            self._live = [row["scheduler_id"] for row in rows]
            self._beaten = time.monotonic()

    def _is_mine(self, trigger_id: UUID) -> bool:
        """Whether this of all live schedulers listens: the highest hash wins, so one that comes or goes moves few.

        (https://en.wikipedia.org/wiki/Rendezvous_hashing; two that listen for a moment do no harm.)
        """

        def rank(scheduler_id: UUID) -> bytes:
            return hashlib.blake2b(trigger_id.bytes + scheduler_id.bytes, digest_size=16).digest()

        return max({*self._live, self._scheduler_id}, key=rank) == self._scheduler_id


async def _listen(context: Context, trigger: Record, gates: Gates) -> None:
    """Receive for ever; beside it, while the queue is long, more of the same."""
    more: set[asyncio.Task[None]] = set()
    pause = PAUSE_SECONDS_FIRST
    try:
        while not is_cancelled():
            received = await receive(context, trigger, gates, WAIT_SECONDS)
            if received is None:
                await asyncio.sleep(pause)
                pause = min(2 * pause, PAUSE_SECONDS_MAX)
                continue
            pause = PAUSE_SECONDS_FIRST
            more = {task for task in more if not task.done()}
            if received >= MESSAGES_MAX / 2 and len(more) < RECEIVERS_MAX - 1:
                more.add(asyncio.create_task(_receive_more(context, trigger, gates)))
    finally:
        for task in more:
            task.cancel()
        await asyncio.gather(*more, return_exceptions=True)


async def _receive_more(context: Context, trigger: Record, gates: Gates) -> None:
    """Receive until nothing comes. What goes wrong is told by the one beside it."""
    with suppress(*PASSING, asyncpg.PostgresError):
        while await receive(context, trigger, gates, MORE_WAIT_SECONDS):
            pass


async def receive(context: Context, trigger: Record, gates: Gates, wait_seconds: int) -> int | None:
    """Receive once, and submit what the messages ask for; the number of messages.

    None if there is no room for jobs, or the queue can't be read: the trigger says so.
    """
    queue = {"QueueUrl": trigger["queue_url"]}
    try:
        await look_for_room(context.database, context.settings, *_of(trigger), priority=0, tasks=1)
    except QuotaExceeded as exceeded:  # not even received, which counts towards the queue's redrive policy
        await _blame(context, trigger, f"messages stay in the queue: {exceeded}")
        return None
    try:
        async with gates.listens, asyncio.timeout(wait_seconds + ANSWER_SECONDS):
            answer = await context.aws.sqs.receive_message(
                **queue,
                MaxNumberOfMessages=MESSAGES_MAX,
                WaitTimeSeconds=wait_seconds,
                AttributeNames=["SentTimestamp"],
            )
        await context.database.execute(_READABLE, trigger["trigger_id"])
        messages = answer.get("Messages", [])
        await _fire_each(context, trigger, messages, gates)
    except (ClientError, BotoCoreError, OSError) as error:
        await _blame(context, trigger, f"can't read the queue: {error or 'it did not answer in time'}")
        await context.database.execute(_UNREADABLE, trigger["trigger_id"])
        return None
    return len(messages)


async def _fire_each(context: Context, trigger: Record, messages: list[dict[str, Any]], gates: Gates) -> None:
    last_job_id, lag, taken = None, None, False
    for message in messages:
        async with gates.fires:
            submitted = await _fire(context, trigger, message)
        if submitted is not None:
            taken = True
            last_job_id = next((job_id for job_id in reversed(submitted) if job_id), last_job_id)
            lag = _lag(message)
            await context.aws.sqs.delete_message(QueueUrl=trigger["queue_url"], ReceiptHandle=message["ReceiptHandle"])
    if taken:
        await context.database.execute(_FIRED, trigger["trigger_id"], last_job_id, lag)


def _lag(message: dict[str, Any]) -> float | None:
    """How long the message was in its queue, by SQS's clock and ours."""
    sent = message.get("Attributes", {}).get("SentTimestamp")
    return None if sent is None else max(time.time() - int(sent) / 1000, 0.0)


def _of(trigger: Record) -> tuple[UUID | None, str]:
    """The key and the share of its jobs, whose quotas they count towards."""
    return trigger["key_id"], str(trigger["job"].get("share", "default"))


async def _fire(context: Context, trigger: Record, message: dict[str, Any]) -> list[UUID | None] | None:
    """Submit what the message asks for, in one transaction; None if it is to come again."""
    try:
        wanted = {name: trigger[name] for name in ("prefix", "suffix", "match")}
        events = read_events(message["MessageId"], message["Body"], **wanted)
        async with context.database.acquire() as connection, connection.transaction():
            if await connection.fetchrow(_HOLD, trigger["trigger_id"]) is None:
                return None
            return [await _submit(connection, context, trigger, event) for event in events]
    except QuotaExceeded as exceeded:
        await _put_off(context, trigger, message, str(exceeded))
        return None
    except _UNUSABLE as error:
        fault = explain(error) if isinstance(error, ValidationError) else str(error)
        await _blame(context, trigger, f"message {message['MessageId']}: {fault}")
        return None


async def _put_off(context: Context, trigger: Record, message: dict[str, Any], why: str) -> None:
    """Leave the message in its queue for a while: each time that it comes counts towards the redrive policy."""
    await _blame(context, trigger, f"message {message['MessageId']} stays in the queue: {why}")
    await context.aws.sqs.change_message_visibility(
        QueueUrl=trigger["queue_url"], ReceiptHandle=message["ReceiptHandle"], VisibilityTimeout=PUT_OFF_SECONDS
    )


async def _submit(connection: Connection, context: Context, trigger: Record, event: Event) -> UUID | None:
    """The job's id; None if this event has made its job already. A specification that this release does not know is
    refused: the message comes back, perhaps to a newer scheduler."""
    spec = JobSpec.model_validate(fill_template(trigger["job"], event.values))
    try:
        async with connection.transaction():
            job_id = await submit_job(
                connection,
                spec,
                settings=context.settings,
                trigger_id=trigger["trigger_id"],
                trigger_message=event.key,
                created_by=trigger["created_by"],
                key_id=trigger["key_id"],
            )
            await record_submission(connection, trigger["created_by"], job_id, trigger=trigger["name"])
            return job_id
    except asyncpg.UniqueViolationError:
        return None


async def _blame(context: Context, trigger: Record, error: str) -> None:
    log.warning("trigger failed", trigger=trigger["name"], error=error)
    statement = "UPDATE triggers SET last_error = $2, last_error_at = now() WHERE trigger_id = $1"
    await context.database.execute(statement, trigger["trigger_id"], storable(error))
