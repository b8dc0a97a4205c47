"""Depths: how many messages SQS has in each pool's queue, and in its dead-letter queue, where none should ever be."""

import structlog
from botocore.exceptions import BotoCoreError, ClientError

from services.scheduler.loop import Context
from services.scheduler.metrics import QUEUE_MESSAGES

log = structlog.get_logger()

IDLE_SECONDS = 60.0

_POOLS = "SELECT name, queue_url, dead_letter_url FROM pools ORDER BY name"
_ATTRIBUTES = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]


async def step(context: Context) -> bool:
    """Ask for all depths once. What can't be asked for is not told: an old number would look like a new one."""
    depths: dict[tuple[str, str], int] = {}
    for pool in await context.database.fetch(_POOLS):
        for queue, url in (("work", pool["queue_url"]), ("dead_letter", pool["dead_letter_url"])):
            try:
                answer = await context.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=_ATTRIBUTES)
            except (ClientError, BotoCoreError, OSError) as error:
                log.info("queue not measured", pool=pool["name"], queue=queue, error=str(error))
                continue
            depths[pool["name"], queue] = sum(int(answer["Attributes"][name]) for name in _ATTRIBUTES)
    QUEUE_MESSAGES.clear()
    for labels, depth in depths.items():
        QUEUE_MESSAGES.labels(*labels).set(depth)
    return False
