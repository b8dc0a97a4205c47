"""Reap: gives back the work of lost and hung workers.

It talks to nothing but the database, so that an outage of the queues does not hold it up.
"""

import structlog

from services.engine import transitions, workers
from services.scheduler.loop import Context
from services.scheduler.metrics import TASKS_GIVEN_BACK, WORKERS_LOST

log = structlog.get_logger()


async def step(context: Context) -> bool:
    """Check workers and leases once; False, for nothing more is due at once."""
    settings = context.settings
    look = await workers.look(context.database, settings.lease_seconds)
    if look.unseen_seconds:
        seconds = round(look.unseen_seconds, 1)
        log.warning("no scheduler has seen the database: leases are longer by that", seconds=seconds)
    if look.silent:
        for worker_id in await workers.mark_lost_workers(context.database, settings.lease_seconds):
            log.warning("worker lost", worker=str(worker_id))
            WORKERS_LOST.inc()
    if not look.claimed:
        return False
    tasks = await transitions.reap_dead_workers(context.database, settings.losses_max)
    tasks += await transitions.reap_overdue(context.database, 2 * settings.lease_seconds, settings.losses_max)
    if tasks:
        log.info("tasks given back", tasks=tasks)
        TASKS_GIVEN_BACK.inc(tasks)
    return False
