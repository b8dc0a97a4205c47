"""Sending messages: ten a request, some requests at once. What SQS does not take is offered again by `reap`."""

import asyncio
from uuid import UUID

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from services.common import lifecycle
from services.common.message import Message
from services.scheduler.loop import Grid

log = structlog.get_logger()

MESSAGES_PER_REQUEST = 10  # the limit of SendMessageBatch
REQUESTS_AT_ONCE = 8


async def send(grid: Grid, queue_url: str, messages: list[Message]) -> None:
    """Send the messages of committed bundles; never raises for SQS's sake."""
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)

    async def send_batch(batch: list[Message]) -> list[UUID]:
        entries = [{"Id": str(number), "MessageBody": message.encode()} for number, message in enumerate(batch)]
        async with gate:
            try:
                answer = await grid.aws.sqs.send_message_batch(QueueUrl=queue_url, Entries=entries)
            except (ClientError, BotoCoreError, OSError) as error:
                log.warning("messages not sent", queue=queue_url, error=str(error))
                return [message.bundle_id for message in batch]
        return [batch[int(entry["Id"])].bundle_id for entry in answer.get("Failed", [])]

    batches = [messages[at : at + MESSAGES_PER_REQUEST] for at in range(0, len(messages), MESSAGES_PER_REQUEST)]
    failed = [bundle for refused in await asyncio.gather(*map(send_batch, batches)) for bundle in refused]
    if failed:
        await lifecycle.mark_unsent(grid.pool, failed)
