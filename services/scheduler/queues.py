"""Sending messages: ten a request, some requests at once. What SQS does not take is offered again by `reap`."""

from collections.abc import Iterator, Sequence
from typing import TypeVar
from uuid import UUID

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from services.contract.message import Message
from services.engine import transitions
from services.platform.concurrency import map_at_most
from services.scheduler.loop import Context

log = structlog.get_logger()

T = TypeVar("T")

MESSAGES_PER_REQUEST = 10  # the limit of SendMessageBatch
REQUESTS_AT_ONCE = 8


async def send(context: Context, queue_url: str, messages: list[Message]) -> None:
    """Send the messages of committed bundles; never raises for SQS's sake."""

    async def send_batch(batch: Sequence[Message]) -> list[UUID]:
        entries = [{"Id": str(number), "MessageBody": message.encode()} for number, message in enumerate(batch)]
        return [batch[number].bundle_id for number in await send_entries(context, queue_url, entries)]

    refused = await map_at_most(REQUESTS_AT_ONCE, send_batch, batches(messages))
    failed = [bundle for those in refused for bundle in those]
    if failed:
        await transitions.mark_unsent(context.database, failed)


def batches(messages: Sequence[T]) -> Iterator[Sequence[T]]:
    """As many as go into one request, and so on."""
    return (messages[at : at + MESSAGES_PER_REQUEST] for at in range(0, len(messages), MESSAGES_PER_REQUEST))


async def send_entries(context: Context, queue_url: str, entries: list[dict[str, str]]) -> set[int]:
    """Send one request's entries; returns the numbers, which are their ids, of those that SQS did not take."""
    try:
        answer = await context.aws.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
    except (ClientError, BotoCoreError, OSError) as error:
        log.warning("messages not sent", queue=queue_url, error=str(error))
        return set(range(len(entries)))
    if failed := answer.get("Failed"):
        log.warning("messages not sent", queue=queue_url, error=failed[0].get("Message"))
    return {int(entry["Id"]) for entry in failed or []}
