"""Resend: offers bundles again whose message is lost, or was not taken by SQS."""

from collections import defaultdict

import structlog

from services.contract.message import Message
from services.engine import pools, transitions
from services.platform.database import new_id
from services.scheduler.loop import Context
from services.scheduler.queues import send

log = structlog.get_logger()

BUNDLES_MAX = 500  # offered again per step


async def step(context: Context) -> bool:
    """Offer what is due; True if more is probably due at once."""
    offered = await transitions.resend(context.database, context.settings.resend_seconds, BUNDLES_MAX)
    by_pool: dict[str, list[Message]] = defaultdict(list)
    for pool, message in offered:
        by_pool[pool].append(message)
    for pool, messages in by_pool.items():
        queues = await pools.load_pool(context.database, pool)
        if queues is not None:
            log.info("messages sent again", pool=pool, messages=len(messages))
            await context.slots["resend"].advance({new_id(): send(context, queues.queue_url, messages)})
    return len(offered) == BUNDLES_MAX
