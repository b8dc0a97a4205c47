"""Looks at S3 and SQS beside the requests, so that /readyz can say at once whether they can be reached."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import structlog

from services.api.connections import Connections
from services.platform.concurrency import is_cancelled
from services.platform.health import VITALS, Pulse

log = structlog.get_logger()

LOOK_SECONDS = 10.0
ANSWER_SECONDS = 5.0

_QUEUE = "SELECT queue_url FROM pools ORDER BY name LIMIT 1"


async def look_at_aws(connections: Connections) -> None:
    """Look until cancelled."""
    pulses = s3, sqs = VITALS.pulse("S3", LOOK_SECONDS), VITALS.pulse("SQS", LOOK_SECONDS)
    try:
        while not is_cancelled():
            await asyncio.sleep(LOOK_SECONDS)
            await _look(s3, connections.aws.s3.head_bucket(Bucket=connections.settings.bucket))
            await _look(sqs, _ask_queue(connections))
    finally:
        VITALS.forget(*(pulse.name for pulse in pulses))


async def _ask_queue(connections: Connections) -> None:
    """Of the first pool; without one there is no queue to ask."""
    queue_url = await connections.database.fetchval(_QUEUE)
    if queue_url is not None:
        await connections.aws.sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])


async def _look(pulse: Pulse, answer: Awaitable[Any]) -> None:
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            await answer
    except Exception as error:  # whatever it is, requests meet it too
        log.warning("AWS not reached", thing=pulse.name, error=repr(error))
        pulse.failed(error)
    else:
        pulse.succeeded()
