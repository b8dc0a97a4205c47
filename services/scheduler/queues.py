"""Sending messages: ten a request, some requests at once. What SQS does not take, the loop resend offers again.

The pool's row says that its queue takes no messages, and since when, so that jobs can tell why they wait.
"""

import asyncio
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import TypeVar
from uuid import UUID

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from services.contract.message import Message
from services.engine import transitions
from services.platform.concurrency import map_at_most
from services.scheduler.loop import Context
from services.scheduler.metrics import MESSAGES_REFUSED

log = structlog.get_logger()

T = TypeVar("T")

MESSAGES_PER_REQUEST = 10  # the limit of SendMessageBatch
REQUESTS_AT_ONCE = 8
RECOVERED_SECONDS = 5.0  # a queue that takes messages is noted once in this time: another scheduler may have lost it
SEND_SECONDS = 10.0  # that a request may take with all its tries: a silent queue must not hold up the others for long

_REFUSED = """
    UPDATE pools SET queue_error = $2, queue_error_at = coalesce(queue_error_at, now())
    WHERE queue_url = $1 AND queue_error IS DISTINCT FROM $2"""

_RECOVERED = """
    UPDATE pools SET queue_error = NULL, queue_error_at = NULL WHERE queue_url = $1 AND queue_error IS NOT NULL"""


async def send(context: Context, queue_url: str, messages: list[Message]) -> None:
    """Send the messages of committed bundles; never raises for SQS's sake."""

    async def send_batch(batch: Sequence[Message]) -> dict[UUID, str]:
        entries = [{"Id": str(number), "MessageBody": message.encode()} for number, message in enumerate(batch)]
        refused = await send_entries(context, queue_url, entries)
        return {batch[number].bundle_id: why for number, why in refused.items()}

    refused = await map_at_most(REQUESTS_AT_ONCE, send_batch, batches(messages))
    failed = {bundle: why for those in refused for bundle, why in those.items()}
    if failed:
        MESSAGES_REFUSED.inc(len(failed))
        await transitions.mark_unsent(context.database, list(failed))
        await context.database.execute(_REFUSED, queue_url, next(iter(failed.values())))
        context.queues_taking.pop(queue_url, None)
    elif messages and context.queues_taking.get(queue_url, -RECOVERED_SECONDS) <= monotonic() - RECOVERED_SECONDS:
        await context.database.execute(_RECOVERED, queue_url)
        context.queues_taking[queue_url] = monotonic()


def batches(messages: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as go into one request, and so on."""
    return (messages[at : at + MESSAGES_PER_REQUEST] for at in range(0, len(messages), MESSAGES_PER_REQUEST))


async def send_entries(context: Context, queue_url: str, entries: list[dict[str, str]]) -> dict[int, str]:
    """Send one request's entries; returns the numbers, which are their ids, of those that SQS did not take, and why."""
    try:
        async with asyncio.timeout(SEND_SECONDS):  # what was taken nevertheless is sent twice, which does no harm
            answer = await context.aws.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
    except (ClientError, BotoCoreError, OSError) as error:
        why = str(error) or repr(error)
        log.warning("messages not sent", queue=queue_url, error=why)
        return dict.fromkeys(range(len(entries)), why)
    if failed := answer.get("Failed"):
        log.warning("messages not sent", queue=queue_url, error=failed[0].get("Message"))
    return {int(entry["Id"]): str(entry.get("Message", entry.get("Code"))) for entry in failed or []}
