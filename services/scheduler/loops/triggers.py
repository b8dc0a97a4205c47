"""Triggers: messages in users' queues become jobs, one for each event, however often it is told."""

import asyncio
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
from services.platform.database import Connection, storable
from services.scheduler.events import Event, read_events
from services.scheduler.loop import Context

log = structlog.get_logger()

WAIT_SECONDS = 5  # of a receive: how late a paused trigger may still fire, or a new one first listens
MESSAGES_MAX = 10  # SQS gives no more at once
PUT_OFF_SECONDS = 900  # a message that is over a quota comes again after this long
LISTENS_AT_ONCE = 32  # of the client's connections to SQS: dispatch must not wait for one

# Faults of the message (or the template): it comes back until the queue's redrive policy removes it.
# (Of a message of another shape than its kind promises, or a very deep one, the reading itself breaks; Postgres stores
# no NUL characters, and no long text in an index.)
_UNUSABLE = (
    *(ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
    *(asyncpg.DataError, asyncpg.ProgramLimitExceededError),
)

_TRIGGERS = """
    SELECT trigger_id, name, queue_url, prefix, suffix, match, job, created_by, key_id FROM triggers WHERE NOT paused"""

# A trigger that was paused or deleted since the receive leaves its messages alone.
_HOLD = "SELECT FROM triggers WHERE trigger_id = $1 AND NOT paused FOR UPDATE"

_FIRED = """
    UPDATE triggers SET last_job_id = coalesce($2, last_job_id), last_message_at = now()
    WHERE trigger_id = $1"""


async def step(context: Context) -> bool:
    """Wait a little for messages of every trigger's queue; True while there are triggers."""
    triggers = await context.database.fetch(_TRIGGERS)
    gate = asyncio.Semaphore(LISTENS_AT_ONCE)
    await asyncio.gather(*(_listen(context, trigger, gate) for trigger in triggers))
    return bool(triggers)


async def _listen(context: Context, trigger: Record, gate: asyncio.Semaphore) -> None:
    queue = {"QueueUrl": trigger["queue_url"]}
    try:
        await look_for_room(context.database, context.settings, *_of(trigger), priority=0, tasks=1)
    except QuotaExceeded as exceeded:  # not even received, which counts towards the queue's redrive policy
        await _blame(context, trigger, f"messages stay in the queue: {exceeded}")
        await asyncio.sleep(WAIT_SECONDS)
        return
    try:
        async with gate:
            answer = await context.aws.sqs.receive_message(
                **queue, MaxNumberOfMessages=MESSAGES_MAX, WaitTimeSeconds=WAIT_SECONDS
            )
        for message in answer.get("Messages", []):
            if await _fire(context, trigger, message):
                await context.aws.sqs.delete_message(**queue, ReceiptHandle=message["ReceiptHandle"])
    except (ClientError, BotoCoreError, OSError) as error:
        await _blame(context, trigger, f"can't read the queue: {error}")
        await asyncio.sleep(WAIT_SECONDS)


def _of(trigger: Record) -> tuple[UUID | None, str]:
    """The key and the share of its jobs, whose quotas they count towards."""
    return trigger["key_id"], str(trigger["job"].get("share", "default"))


async def _fire(context: Context, trigger: Record, message: dict[str, Any]) -> bool:
    """Submit what the message asks for, in one transaction; False if it is to come again."""
    try:
        wanted = {name: trigger[name] for name in ("prefix", "suffix", "match")}
        events = read_events(message["MessageId"], message["Body"], **wanted)
        async with context.database.acquire() as connection, connection.transaction():
            if await connection.fetchrow(_HOLD, trigger["trigger_id"]) is None:
                return False
            submitted = [await _submit(connection, context, trigger, event) for event in events]
            last = next((job_id for job_id in reversed(submitted) if job_id), None)
            await connection.execute(_FIRED, trigger["trigger_id"], last)
        return True
    except QuotaExceeded as exceeded:
        await _put_off(context, trigger, message, str(exceeded))
        return False
    except _UNUSABLE as error:
        fault = explain(error) if isinstance(error, ValidationError) else str(error)
        await _blame(context, trigger, f"message {message['MessageId']}: {fault}")
        return False


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
