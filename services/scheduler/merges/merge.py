"""The end of a job's last stage: its outputs become results, by one scheduler at a time.

Everything is written under fixed keys, so a merge that dies is done again from its start by whoever comes next; what
counts is the transaction at its end.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import PurePosixPath
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record
from botocore.exceptions import ClientError
from pydantic import TypeAdapter

from services.common.database import UNAVAILABLE, Connection
from services.common.jobs import end_job, fail_job, notify_jobs
from services.common.layout import Layout, Location
from services.common.lifecycle import plan_tasks
from services.common.spec import ConcatMerge, Merge, ReduceMerge
from services.scheduler.loop import Grid, passes
from services.scheduler.merges.concatenate import Source, TooShort, concatenate
from services.scheduler.merges.manifest import write_manifest, write_outputs_listing
from services.scheduler.merges.multipart import TooManyParts
from services.scheduler.merges.outputs import succeeded_tasks

log = structlog.get_logger()

MERGES_AT_ONCE = 4
PUT_OFF_SECONDS = 1.0
FILES_MAX = 1000  # parts listed as result files when nothing is merged; the manifest always lists all
_MERGE: TypeAdapter[Merge] = TypeAdapter(Merge)

_MERGING = """
    SELECT j.job_id, j.name, j.created_at, j.spec -> 'merge' AS merge, s.stage, s.kind, s.finished_at
    FROM jobs AS j JOIN stages AS s USING (job_id)
    WHERE j.state = 'running' AND s.state = 'merging' AND j.job_id <> ALL($2::uuid[])
    ORDER BY j.priority DESC, j.job_id LIMIT $1"""

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

    async def step(self, grid: Grid) -> bool:
        """Start merges of jobs that wait for theirs; True while there are any."""
        free = MERGES_AT_ONCE - len(self._running)
        for job in await grid.pool.fetch(_MERGING, free, list(self._running)):
            self._running[job["job_id"]] = asyncio.create_task(self._run(grid, job))
        return bool(self._running)

    async def stop(self) -> None:
        """Break off what runs, unfinished uploads included; whoever comes next begins it again."""
        running = list(self._running.values())
        for merge in running:
            merge.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, grid: Grid, job: Record) -> None:
        try:
            await _merge_alone(grid, job)
        except Exception as error:
            if passes(error):
                log.warning("merge put off", job=str(job["job_id"]), error=repr(error))
            else:
                log.exception("merge broke", job=str(job["job_id"]))
            await asyncio.sleep(PUT_OFF_SECONDS)
        finally:
            del self._running[job["job_id"]]


async def _merge_alone(grid: Grid, job: Record) -> None:
    """A session's lock, not a transaction's: a long merge must not hold back vacuum, and dies with its connection."""
    async with grid.pool.acquire() as connection:
        if not await connection.fetchval(_LOCK, job["job_id"]):
            return
        try:
            await _merge(grid, job)
        except Exception as error:
            if passes(error):
                raise
            await _fail(grid, job, _explain(error))
        finally:
            with suppress(*UNAVAILABLE):  # the lock is gone with its connection
                await connection.execute(_UNLOCK, job["job_id"])


def _explain(error: Exception) -> str:
    if isinstance(error, TooManyParts):
        return f"{error}; use larger parts, or merge by a reduce processor"
    if isinstance(error, ClientError | TooShort):
        return f"an output can't be read: {error}"
    log.exception("merge broke", exc_info=error)
    return f"the merge broke: {error!r}"


async def _waits(connection: Connection, job: Record) -> bool:
    """Lock the job and the stage; whether both are still where this merge found them."""
    return await connection.fetchrow(_WAITS, job["job_id"], job["stage"], job["finished_at"]) is not None


async def _fail(grid: Grid, job: Record, message: str) -> None:
    error = {"type": "merge_failed", "message": message, "stage": job["stage"]}
    async with grid.pool.acquire() as connection, connection.transaction():
        if await _waits(connection, job):
            await fail_job(connection, job["job_id"], error, job["stage"])
            log.info("merge failed", job=str(job["job_id"]), error=message)


async def _merge(grid: Grid, job: Record) -> None:
    layout = Layout(grid.settings.bucket, grid.settings.prefix)
    merge = _MERGE.validate_python(job["merge"])
    if isinstance(merge, ReduceMerge) and job["kind"] == "map":
        await _start_reduce(grid, layout, job)
        return
    if isinstance(merge, ConcatMerge):
        files = [await _concatenate_outputs(grid, layout.result(job["job_id"], merge.filename), job)]
    elif isinstance(merge, ReduceMerge):
        files = await _publish_reduced(grid, layout, job, merge.filename)
    else:
        files = await _list_parts(grid, job)
    rejects = await _concatenate_rejects(grid, layout.result(job["job_id"], "rejects.jsonl"), job)
    if rejects is not None:
        files.append(rejects)
    manifest = await write_manifest(grid.pool, grid.aws, layout, dict(job), job["stage"], files)
    await _end(grid, job, {"files": files, "manifest": manifest})


async def _start_reduce(grid: Grid, layout: Layout, job: Record) -> None:
    listing = await write_outputs_listing(grid.pool, grid.aws, layout, job["job_id"], job["stage"])
    reduce = job["stage"] + 1
    async with grid.pool.acquire() as connection, connection.transaction():
        if await _waits(connection, job):
            await _succeed_stage(connection, job, None)
            await connection.execute(
                "UPDATE stages SET state = 'running', planned = true, task_count = 1, started_at = now() "
                "WHERE job_id = $1 AND stage = $2",
                job["job_id"],
                reduce,
            )
            await plan_tasks(connection, job["job_id"], reduce, 0, [{"type": "outputs", "uri": listing}])
            await notify_jobs(connection)


async def _end(grid: Grid, job: Record, result: dict[str, Any]) -> None:
    async with grid.pool.acquire() as connection, connection.transaction():
        if await _waits(connection, job):
            await _succeed_stage(connection, job, result)
            await end_job(
                connection,
                job["job_id"],
                source="running",
                target="succeeded",
                settings=grid.settings,
                results=result["manifest"],
            )
            log.info("job ended", job=str(job["job_id"]), state="succeeded")


async def _succeed_stage(connection: Connection, job: Record, result: dict[str, Any] | None) -> None:
    await connection.execute(
        "UPDATE stages SET state = 'succeeded', result = $3, finished_at = now() WHERE job_id = $1 AND stage = $2",
        job["job_id"],
        job["stage"],
        result,
    )


def _file(location: Location, size: int) -> dict[str, Any]:
    return {"name": PurePosixPath(location.key).name, "uri": location.uri, "bytes": size}


async def _total_bytes(grid: Grid, job: Record, first_stage: int, field: str) -> int:
    total: int = await grid.pool.fetchval(
        "SELECT coalesce(sum((output ->> $3)::bigint), 0)::bigint FROM tasks "
        "WHERE job_id = $1 AND stage BETWEEN $2 AND $4 AND state = 'succeeded'",
        job["job_id"],
        first_stage,
        field,
        job["stage"],
    )
    return total


async def _concatenate_outputs(grid: Grid, target: Location, job: Record) -> dict[str, Any]:
    async def sources() -> AsyncIterator[Source]:
        first = True
        async for task in succeeded_tasks(grid.pool, job["job_id"], job["stage"], job["stage"]):
            output = task["output"] or {}
            if output.get("bytes"):
                # A CSV's header line is kept from the first part only.
                start = 0 if first else output.get("header_bytes", 0)
                first = False
                yield Source(Location.parse(output["uri"]), start, output["bytes"])

    total = await _total_bytes(grid, job, job["stage"], "bytes")
    return _file(target, await concatenate(grid.aws.s3, target, sources(), total))


async def _concatenate_rejects(grid: Grid, target: Location, job: Record) -> dict[str, Any] | None:
    async def sources() -> AsyncIterator[Source]:
        async for task in succeeded_tasks(grid.pool, job["job_id"], 0, job["stage"]):
            output = task["output"] or {}
            if output.get("rejects_bytes"):
                yield Source(Location.parse(output["rejects"]), 0, output["rejects_bytes"])

    total = await _total_bytes(grid, job, 0, "rejects_bytes")
    if not total:
        return None
    return _file(target, await concatenate(grid.aws.s3, target, sources(), total))


async def _publish_reduced(grid: Grid, layout: Layout, job: Record, filename: str | None) -> list[dict[str, Any]]:
    """Copy what the reduce wrote to the results; nothing if it only returned a value."""
    async for task in succeeded_tasks(grid.pool, job["job_id"], job["stage"], job["stage"]):
        output = task["output"] or {}
        if "uri" in output:
            made = Location.parse(output["uri"])
            target = layout.result(job["job_id"], filename or PurePosixPath(made.key).name)

            async def whole(made: Location = made, size: int = output["bytes"]) -> AsyncIterator[Source]:
                yield Source(made, 0, size)

            return [_file(target, await concatenate(grid.aws.s3, target, whole(), output["bytes"]))]
    return []


async def _list_parts(grid: Grid, job: Record) -> list[dict[str, Any]]:
    files: list[dict[str, Any]] = []
    async for task in succeeded_tasks(grid.pool, job["job_id"], job["stage"], job["stage"]):
        output = task["output"] or {}
        if "uri" in output:
            if len(files) == FILES_MAX:
                return []
            made = Location.parse(output["uri"])
            name = f"{task['index']:08d}{PurePosixPath(made.key).suffix}"
            files.append({"name": name, "uri": made.uri, "bytes": output["bytes"]})
    return files
