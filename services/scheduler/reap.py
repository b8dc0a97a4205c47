"""Reap: whatever a lost worker, a hung one or a lost message holds becomes reachable again."""

from collections import defaultdict

import structlog

from services.common import lifecycle
from services.common.message import Message
from services.scheduler.loop import Grid
from services.scheduler.queues import send

log = structlog.get_logger()

BUNDLES_MAX = 500  # offered again per step


async def step(grid: Grid) -> bool:
    """One look at workers, leases and messages; True if more is likely due at once."""
    settings = grid.settings
    for worker_id in await lifecycle.mark_lost_workers(grid.pool, settings.lease_seconds):
        log.warning("worker lost", worker=str(worker_id))
    tasks = await lifecycle.reap_dead_workers(grid.pool, settings.losses_max)
    tasks += await lifecycle.reap_overdue(grid.pool, 2 * settings.lease_seconds, settings.losses_max)
    if tasks:
        log.info("tasks given back", tasks=tasks)
    offered = await lifecycle.resend(grid.pool, settings.resend_seconds, BUNDLES_MAX)
    await _send_again(grid, offered)
    return len(offered) == BUNDLES_MAX


async def _send_again(grid: Grid, offered: list[tuple[str, Message]]) -> None:
    by_pool: dict[str, list[Message]] = defaultdict(list)
    for pool, message in offered:
        by_pool[pool].append(message)
    for pool, messages in by_pool.items():
        queues = await lifecycle.load_pool(grid.pool, pool)
        if queues is not None:
            log.info("messages sent again", pool=pool, messages=len(messages))
            await send(grid, queues.queue_url, messages)
