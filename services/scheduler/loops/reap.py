"""Reap: gives back the work of lost and hung workers, and offers bundles again whose message is lost."""

from collections import defaultdict

import structlog

from services.contract.message import Message
from services.engine import pools, transitions, workers
from services.scheduler.loop import Context
from services.scheduler.queues import send

log = structlog.get_logger()

BUNDLES_MAX = 500  # offered again per step


async def step(context: Context) -> bool:
    """Check workers, leases and messages once; True if more is probably due at once."""
    settings = context.settings
    for worker_id in await workers.mark_lost_workers(context.database, settings.lease_seconds):
        log.warning("worker lost", worker=str(worker_id))
    tasks = await transitions.reap_dead_workers(context.database, settings.losses_max)
    tasks += await transitions.reap_overdue(context.database, 2 * settings.lease_seconds, settings.losses_max)
    if tasks:
        log.info("tasks given back", tasks=tasks)
    offered = await transitions.resend(context.database, settings.resend_seconds, BUNDLES_MAX)
    await _send_again(context, offered)
    return len(offered) == BUNDLES_MAX


async def _send_again(context: Context, offered: list[tuple[str, Message]]) -> None:
    by_pool: dict[str, list[Message]] = defaultdict(list)
    for pool, message in offered:
        by_pool[pool].append(message)
    for pool, messages in by_pool.items():
        queues = await pools.load_pool(context.database, pool)
        if queues is not None:
            log.info("messages sent again", pool=pool, messages=len(messages))
            await send(context, queues.queue_url, messages)
