"""What a user does in the storm: submits the jobs, pauses and resumes one, cancels another in the middle."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import UUID

from services.engine.jobs import cancel_job, pause_job, resume_job
from services.engine.pools import register_pool
from services.engine.processors import register_processor
from services.engine.spec import JobSpec
from services.engine.submission import submit_job
from services.platform.database import Connection
from tests.storm.grid import StormGrid
from tests.storm.journal import Journal
from tests.storm.work import PROCESSORS, Work, raw_location

_POLL_SECONDS = 0.1

_ENDED = """
    SELECT coalesce(sum(succeeded + failed + cancelled), 0)::bigint FROM stage_counters
    WHERE job_id = ANY($1::uuid[])"""

_AT_WORK = """
    SELECT (SELECT count(*) FROM workers WHERE state = 'active') = $1
       AND EXISTS (SELECT FROM stage_counters WHERE succeeded > 0)"""

_CLAIMED_SINCE = "SELECT count(*) FROM tasks WHERE job_id = $1 AND started_at > $2"


async def submit(grid: StormGrid, works: list[Work]) -> dict[str, UUID]:
    """Register what the jobs need, put their inputs into S3 and submit them all; returns their ids by name."""
    bucket = grid.settings.bucket
    for work in works:
        if work.raw:
            place = raw_location(bucket, work.name)
            await grid.aws.s3.put_object(Bucket=place.bucket, Key=place.key, Body=work.raw)
    async with grid.database.acquire() as connection, connection.transaction():
        queues = {"queue_url": grid.queue_url, "dead_letter_url": grid.dead_letter_url}
        await register_pool(connection, "default", **queues, group_name=None, slots=2)
        for name, spec in PROCESSORS.items():
            await register_processor(connection, name, spec)
        await connection.executemany(
            "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES (gen_random_uuid(), $1, $2)",
            [(url, grid.receiver.secret) for url in (grid.receiver.silent_url, grid.receiver.url)],
        )
        return {
            work.name: await submit_job(connection, JobSpec.model_validate(work.spec), settings=grid.settings)
            for work in works
        }


async def until_at_work(grid: StormGrid) -> None:
    """Wait until all workers are there and the first tasks have ended."""
    are_at_work = False
    while not are_at_work:
        await asyncio.sleep(_POLL_SECONDS)
        are_at_work = await grid.ask(lambda connection: connection.fetchval(_AT_WORK, len(grid.workers)))


async def tasks_ended(grid: StormGrid, *job_ids: UUID) -> int:
    """How many tasks of these jobs are terminal."""
    return int(await grid.ask(lambda connection: connection.fetchval(_ENDED, job_ids)))


async def pause_and_resume(grid: StormGrid, journal: Journal, job_id: UUID, after: int, until: asyncio.Event) -> int:
    """Pause the job once this many of its tasks have ended; returns how many were claimed before it was resumed."""
    await _until_ended(grid, job_id, after)
    await _order(grid, job_id, pause_job, "paused")
    paused_at = await grid.ask(lambda connection: connection.fetchval("SELECT clock_timestamp()"))
    journal.note("job paused", job=job_id)
    await until.wait()
    claimed = await grid.ask(lambda connection: connection.fetchval(_CLAIMED_SINCE, job_id, paused_at))
    await _order(grid, job_id, resume_job, "running")
    journal.note("job resumed", job=job_id, claimed=claimed)
    return int(claimed)


async def cancel(grid: StormGrid, journal: Journal, job_id: UUID, after: int) -> None:
    """Cancel the job once this many of its tasks have ended."""
    await _until_ended(grid, job_id, after)
    await _order(grid, job_id, cancel_job, "cancelling", "cancelled")
    journal.note("job cancelled", job=job_id)


async def _until_ended(grid: StormGrid, job_id: UUID, count: int) -> None:
    ended = 0
    while ended < count:
        await asyncio.sleep(_POLL_SECONDS)
        ended = await tasks_ended(grid, job_id)


async def _order(
    grid: StormGrid, job_id: UUID, order: Callable[[Connection, UUID], Awaitable[None]], *targets: str
) -> None:
    """Give the order unless it was obeyed already: the database may die between the commit and its answer."""

    async def step(connection: Connection) -> None:
        if await connection.fetchval("SELECT state FROM jobs WHERE job_id = $1", job_id) not in targets:
            await order(connection, job_id)

    await grid.ask(step)
