"""The end of a job's last stage: its outputs become results, by one scheduler at a time. (Or the outputs of an earlier
stage become one object, if the next splits that again.)

Everything is written under fixed keys, so a merge that dies is done again from its start by whoever comes next; what
counts is the transaction at its end.
"""

import asyncio
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.layout import SCHEDULER
from services.engine.jobs import end_job, fail_job, notify_jobs
from services.engine.lost_outputs import lose_outputs
from services.platform.database import UNAVAILABLE, Connection
from services.platform.multipart import TooManyParts
from services.platform.reads import ObjectLost
from services.scheduler import put_off
from services.scheduler.loop import Context, passes
from services.scheduler.merges.concatenate import TooLarge
from services.scheduler.merges.lost import find_lost
from services.scheduler.merges.manifest import write_manifest
from services.scheduler.merges.results import Results

log = structlog.get_logger()

MERGES_AT_ONCE = 4

# An earlier stage that runs again, because an output was lost, is waited for: nothing of a job that ends may be left.
_MERGING = """
    SELECT j.job_id, j.name, j.created_at, j.spec -> 'merge' AS merge, j.spec ->> 'results' AS results,
        s.stage, s.kind, s.finished_at,
        (SELECT p.spec -> 'outputs' FROM processors AS p
            WHERE p.name = s.processor AND p.version = s.processor_version) AS outputs,
        EXISTS (SELECT FROM stages AS n WHERE n.job_id = s.job_id AND n.stage = s.stage + 1) AS goes_on,
        (SELECT n.resplit FROM stages AS n WHERE n.job_id = s.job_id AND n.stage = s.stage + 1) AS resplit
    FROM jobs AS j JOIN stages AS s USING (job_id)
    WHERE j.state = 'running' AND s.state = 'merging' AND j.job_id <> ALL($3::uuid[])
      AND NOT EXISTS (
        SELECT FROM stages AS e WHERE e.job_id = s.job_id AND e.stage < s.stage AND e.state <> 'succeeded')
      AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
    ORDER BY s.put_off_at NULLS FIRST, j.priority DESC, j.job_id, s.stage LIMIT $2"""

# Whether the job still waits for this merge: one that was cancelled and retried meanwhile waits for another.
_WAITS = """
    SELECT FROM jobs AS j JOIN stages AS s USING (job_id)
    WHERE j.job_id = $1 AND j.state = 'running' AND s.stage = $2 AND s.state = 'merging' AND s.finished_at = $3
    FOR UPDATE"""

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('merge ' || $1::uuid::text, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('merge ' || $1::uuid::text, 0))"


class Merger:
    """Runs merges beside each other, so that a large one does not hold up a small one."""

    def __init__(self) -> None:
        self._running: dict[UUID, asyncio.Task[None]] = {}

    async def step(self, context: Context) -> bool:
        """Start merges of jobs that wait for theirs; True while there are any."""
        free = MERGES_AT_ONCE - len(self._running)
        for job in await context.database.fetch(_MERGING, put_off.PUT_OFF_SECONDS, free, list(self._running)):
            self._running[job["job_id"]] = asyncio.create_task(self._run(context, job))
        return bool(self._running)

    async def stop(self) -> None:
        """Stop the running merges, including their uploads; the next scheduler starts them again."""
        running = list(self._running.values())
        for merge in running:
            merge.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, context: Context, job: Record) -> None:
        try:
            await _merge_alone(context, job)
        except Exception as error:
            if passes(error):
                log.warning("merge put off", job=str(job["job_id"]), error=repr(error))
            else:
                log.exception("merge broke", job=str(job["job_id"]))
            with suppress(*UNAVAILABLE):  # then the loop waits for the database itself
                await put_off.put_off(context.database, job["job_id"], job["stage"], error)
        finally:
            del self._running[job["job_id"]]


async def _merge_alone(context: Context, job: Record) -> None:
    """A session's lock, not a transaction's: a long merge must not hold back vacuum, and dies with its connection."""
    async with context.database.acquire() as connection:
        if not await connection.fetchval(_LOCK, job["job_id"]):
            return
        try:
            await _merge(context, job)
        except ObjectLost as error:
            await _lose(context, job, error)
        except Exception as error:
            if passes(error):
                raise
            await _fail(context, job, _explain(error))
        finally:
            with suppress(*UNAVAILABLE):  # the lock is gone with its connection
                await connection.execute(_UNLOCK, job["job_id"])


def _explain(error: Exception) -> str:
    if isinstance(error, TooManyParts | TooLarge):
        return f"{error}; merge by a reduce processor, or not at all"
    if isinstance(error, ClientError):
        reads = error.operation_name in ("GetObject", "UploadPartCopy")
        return f"{'an output' if reads else 'a result'} can't be {'read' if reads else 'written'}: {error}"
    log.exception("merge broke", exc_info=error)
    return f"the merge broke: {error!r}"


async def _waits(connection: Connection, job: Record) -> bool:
    """Lock the job and the stage; whether both are still where this merge found them."""
    return await connection.fetchrow(_WAITS, job["job_id"], job["stage"], job["finished_at"]) is not None


async def _fail(context: Context, job: Record, message: str) -> None:
    error = {"type": "merge_failed", "message": message, "stage": job["stage"]}
    async with context.database.acquire() as connection, connection.transaction():
        if await _waits(connection, job):
            await fail_job(connection, job["job_id"], error, job["stage"])
            log.info("merge failed", job=str(job["job_id"]), error=message)


# A merge waits for a task of an earlier stage; one of its own stage has reopened that already.
_WAIT = "UPDATE stages SET state = 'waiting' WHERE job_id = $1 AND stage = $2 AND state = 'merging'"


async def _lose(context: Context, job: Record, error: ObjectLost) -> None:
    """Have the lost outputs made again; then the stage ends and is merged once more."""
    lost = await find_lost(context, job, error.location)
    if not lost:
        await _fail(context, job, str(error))
        return
    async with context.database.acquire() as connection, connection.transaction():
        if not await _waits(connection, job):
            return
        why = await lose_outputs(connection, job["job_id"], (job["stage"], SCHEDULER), lost)
        if why is None:
            await connection.execute(_WAIT, job["job_id"], job["stage"])
            log.warning("outputs lost", job=str(job["job_id"]), stage=job["stage"], first=str(error), outputs=len(lost))
    if why is not None:
        await _fail(context, job, why)


async def _merge(context: Context, job: Record) -> None:
    results = Results(context, dict(job))
    if job["goes_on"]:
        await _hand_over(context, job, {"files": [await results.join_stage()]})
        return
    files = await results.write()
    parts_of = job["stage"] - (job["kind"] == "reduce")
    place = results.place("manifest.json")
    manifest = await write_manifest(context.database, context.aws, place, dict(job), parts_of, files)
    await _end(context, job, {"files": files, "manifest": manifest})


async def _hand_over(context: Context, job: Record, result: dict[str, Any]) -> None:
    """The next stage of the job may begin."""
    async with context.database.acquire() as connection, connection.transaction():
        if await _waits(connection, job):
            await _succeed_stage(connection, job, result)
            await notify_jobs(connection)


async def _end(context: Context, job: Record, result: dict[str, Any]) -> None:
    async with context.database.acquire() as connection, connection.transaction():
        if await _waits(connection, job):
            await _succeed_stage(connection, job, result)
            await end_job(
                connection,
                job["job_id"],
                source="running",
                target="succeeded",
                settings=context.settings,
                result=result,
            )
            log.info("job ended", job=str(job["job_id"]), state="succeeded")


async def _succeed_stage(connection: Connection, job: Record, result: dict[str, Any] | None) -> None:
    await connection.execute(
        "UPDATE stages SET state = 'succeeded', result = $3, finished_at = now() WHERE job_id = $1 AND stage = $2",
        job["job_id"],
        job["stage"],
        result,
    )
