"""Stragglers: near the end of a stage, a task that runs far longer than its peers gets a backup attempt elsewhere.

The first of the two to succeed wins (backup tasks: Dean & Ghemawat 2004, MapReduce, section 3.6). Only for processors
marked idempotent, only once all tasks of the stage run or have ended, and only into slots that nobody else needs: of
pools in order of preference, into those of the first one that has some. A stage that limits how many of its tasks run
(`running_max`) has none.
"""

import structlog
from asyncpg import Record

from services.engine import transitions
from services.engine.running import fetch_running
from services.scheduler.loop import Context
from services.scheduler.queues import send

log = structlog.get_logger()

# Three of four tasks must have ended, so that the mean is their peers' and the end is near.
_STAGES = """
    SELECT s.job_id, s.stage, s.task_seconds, p.pool, p.queue_url, p.slots_free
    FROM running_stages AS s
    JOIN processors AS r ON r.name = s.processor AND r.version = s.processor_version
    JOIN stages AS of USING (job_id, stage)
    CROSS JOIN LATERAL (
        SELECT p.name AS pool, p.queue_url, free.slots AS slots_free
        FROM pools AS p CROSS JOIN LATERAL (
            SELECT coalesce(sum(w.slots - w.busy), 0)::bigint AS slots FROM workers AS w
            WHERE w.pool = p.name AND w.state = 'active'
        ) AS free
        WHERE p.name = ANY(coalesce(of.pools, ARRAY[of.pool])) AND NOT p.paused
          AND NOT EXISTS (SELECT FROM bundles AS b WHERE b.pool = p.name AND b.worker_id IS NULL AND b.put_off = 0)
        ORDER BY free.slots > 0 DESC, array_position(of.pools, p.name) LIMIT 1
    ) AS p
    WHERE of.state = 'running' AND (of.job_id, of.stage) > ($1, $2) AND (of.job_id, of.stage) <= ($3, $4)
      AND of.options ->> 'running_max' IS NULL AND s.planned AND (r.spec ->> 'idempotent')::boolean
      AND s.ready + s.queued = 0 AND s.running > 0 AND s.succeeded >= 3 * s.running"""


_ANY_RACE = "SELECT EXISTS (SELECT FROM bundles WHERE backed_up OR backup_of IS NOT NULL)"


async def step(context: Context) -> bool:
    """Free the losers of races that are over, then offer backups; True while a stage may need one."""
    if await context.database.fetchval(_ANY_RACE):
        async with context.database.acquire() as connection:
            await transitions.settle_races(connection)
    stages = await fetch_running(context.database, _STAGES)
    for stage in stages:
        if stage["slots_free"] > 0:
            await _back_up(context, stage)
    return bool(stages)


async def _back_up(context: Context, stage: Record) -> None:
    settings = context.settings
    messages = await transitions.offer_backups(
        context.database,
        stage["job_id"],
        stage["stage"],
        pool=stage["pool"],
        seconds_min=settings.straggler_seconds,
        task_seconds_max=settings.straggler_factor * stage["task_seconds"],
        bundles_max=stage["slots_free"],
        resend_seconds=settings.resend_seconds,
    )
    if messages:
        log.info("backups offered", job=str(stage["job_id"]), stage=stage["stage"], tasks=[m.first for m in messages])
        await send(context, stage["queue_url"], messages)
