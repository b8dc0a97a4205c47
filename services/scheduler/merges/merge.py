"""The end of a job's last stage: its outputs become results, by one scheduler at a time. (Or the outputs of an earlier
stage become one object, if the next splits that again.)

Everything is written under fixed keys, so a merge that dies is done again from its start by whoever comes next; what
counts is the transaction at its end.
"""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from asyncpg import Record
from botocore.exceptions import ClientError

from services.contract.layout import SCHEDULER
from services.engine.jobs import end_job, fail_job, notify_jobs
from services.engine.lost_outputs import lose_outputs
from services.platform import tracing
from services.platform.database import UNAVAILABLE, Connection
from services.platform.multipart import TooManyParts
from services.platform.reads import ObjectLost
from services.scheduler import put_off
from services.scheduler.loop import Context, passes
from services.scheduler.merges.concatenate import TooLarge
from services.scheduler.merges.lost import find_lost
from services.scheduler.merges.manifest import write_manifest
from services.scheduler.merges.results import Results
from services.scheduler.metrics import MERGES_RUNNING
from services.scheduler.traces import trace_of

log = structlog.get_logger()

_DATABASE: tuple[type[BaseException], ...] = (*UNAVAILABLE, asyncpg.PostgresError)

# Small merges have places of their own, and one that lasts gives up its place among them: so long ones, or ones that
# hang, hold up no small one.
SMALL_TASKS_MAX = 1_000
SMALL_AT_ONCE = 12
LARGE_AT_ONCE = 4
LONG_SECONDS = 10.0
MERGES_AT_ONCE = 32

LEASE_SECONDS_MAX = 15.0  # then another scheduler takes over the merge of one that hangs or died

# An earlier stage that runs again, because an output was lost, is waited for: nothing of a job that ends may be left.
_TAKE = """
    WITH due AS (
        SELECT s.job_id, s.stage FROM jobs AS j JOIN stages AS s USING (job_id)
        WHERE j.state = 'running' AND s.state = 'merging' AND (s.task_count > $3) = $4
          AND (s.merge_until IS NULL OR s.merge_until <= now())
          AND NOT EXISTS (
            SELECT FROM stages AS e WHERE e.job_id = s.job_id AND e.stage < s.stage AND e.state <> 'succeeded')
          AND (s.put_off_at IS NULL OR s.put_off_at <= now() - $1 * interval '1 second')
        ORDER BY s.put_off_at NULLS FIRST, j.priority DESC, j.job_id, s.stage LIMIT $2 FOR UPDATE OF s SKIP LOCKED
    )
    UPDATE stages AS s SET merge_id = gen_random_uuid(), merge_until = now() + $5 * interval '1 second'
    FROM due JOIN jobs AS j USING (job_id) WHERE s.job_id = due.job_id AND s.stage = due.stage
    RETURNING j.job_id, j.name, j.created_at, j.spec -> 'merge' AS merge, j.spec ->> 'results' AS results,
        s.stage, s.kind, s.finished_at, s.merge_id, coalesce((s.options ->> 'named_results')::boolean, false) AS named,
        jsonb_path_query_array(j.spec, '$.input ? (exists (@.uri) || exists (@.prefix))') AS inputs,
        (SELECT p.spec -> 'outputs' FROM processors AS p
            WHERE p.name = s.processor AND p.version = s.processor_version) AS outputs,
        EXISTS (SELECT FROM stages AS n WHERE n.job_id = s.job_id AND n.stage = s.stage + 1) AS goes_on,
        (SELECT n.resplit FROM stages AS n WHERE n.job_id = s.job_id AND n.stage = s.stage + 1) AS resplit"""

_RENEW = """
    UPDATE stages AS s SET merge_until = now() + $4 * interval '1 second'
    FROM unnest($1::uuid[], $2::smallint[], $3::uuid[]) AS mine (job_id, stage, merge_id)
    WHERE s.job_id = mine.job_id AND s.stage = mine.stage AND s.merge_id = mine.merge_id
    RETURNING s.merge_id"""

_RELEASE = """
    UPDATE stages SET merge_id = NULL, merge_until = NULL WHERE job_id = $1 AND stage = $2 AND merge_id = $3"""

# Whether the job still waits for this merge: if it was cancelled and retried meanwhile, or another scheduler has taken
# the merge over, it does not.
_WAITS = """
    SELECT FROM jobs AS j JOIN stages AS s USING (job_id)
    WHERE j.job_id = $1 AND j.state = 'running' AND s.stage = $2 AND s.state = 'merging' AND s.finished_at = $3
      AND s.merge_id = $4
    FOR UPDATE"""


@dataclass(slots=True)
class _Merge:
    """A merge that is under way."""

    job: Record
    is_large: bool
    task: asyncio.Task[None]
    started: float = field(default_factory=time.monotonic)

    @property
    def is_long(self) -> bool:
        return self.is_large or time.monotonic() - self.started >= LONG_SECONDS


class Merger:
    """Runs merges beside each other, so that a large one does not hold up a small one.

    A merge is leased, so that no two schedulers have the same. It may go on after its lease: then it does not count.
    """

    def __init__(self) -> None:
        self._running: dict[UUID, _Merge] = {}  # by merge_id
        self._renewed = 0.0

    async def step(self, context: Context) -> bool:
        """Start merges of jobs that wait for theirs; True while there are any."""
        lease = min(LEASE_SECONDS_MAX, context.settings.lease_seconds)
        if self._running and time.monotonic() - self._renewed >= lease / 3:
            await self._renew(context, lease)
        for is_large, free in self._free():
            if free > 0:
                limits = (put_off.PUT_OFF_SECONDS, free, SMALL_TASKS_MAX, is_large, lease)
                for job in await context.database.fetch(_TAKE, *limits):
                    task = asyncio.create_task(self._run(context, job))
                    self._running[job["merge_id"]] = _Merge(job, is_large, task)
        MERGES_RUNNING.set(len(self._running))
        return bool(self._running)

    def _free(self) -> list[tuple[bool, int]]:
        """The number of merges, large and small, that may begin."""
        long = sum(merge.is_long for merge in self._running.values())
        small = len(self._running) - long
        return [(True, LARGE_AT_ONCE - long), (False, min(SMALL_AT_ONCE - small, MERGES_AT_ONCE - small - long))]

    async def _renew(self, context: Context, lease: float) -> None:
        """Prolong the leases, and end the merges that have lost theirs to another scheduler."""
        self._renewed = time.monotonic()
        jobs = [merge.job for merge in self._running.values()]
        mine = ([job[name] for job in jobs] for name in ("job_id", "stage", "merge_id"))
        held = {row["merge_id"] for row in await context.database.fetch(_RENEW, *mine, lease)}
        for merge_id, merge in self._running.items():
            if merge_id not in held:
                merge.task.cancel()

    async def stop(self) -> None:
        """Stop the running merges, including their uploads; the next scheduler starts them again."""
        running = [merge.task for merge in self._running.values()]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _run(self, context: Context, job: Record) -> None:
        try:
            await _merge_or_fail(context, job)
        except Exception as error:
            if passes(error):
                log.warning("merge put off", job=str(job["job_id"]), error=repr(error))
            else:
                log.exception("merge broke", job=str(job["job_id"]))
            with suppress(*_DATABASE):  # then the loop waits for the database itself
                await put_off.put_off(context.database, job["job_id"], job["stage"], error)
        finally:
            try:
                await context.database.execute(_RELEASE, job["job_id"], job["stage"], job["merge_id"])
            except _DATABASE as error:  # it waits for the end of its lease
                log.warning("merge not released", job=str(job["job_id"]), error=repr(error))
            finally:
                del self._running[job["merge_id"]]


async def _merge_or_fail(context: Context, job: Record) -> None:
    """No connection is held: a long merge must not hold back vacuum."""
    try:
        with tracing.span("merge", await trace_of(context.database, job["job_id"]), job=job["job_id"]):
            await _merge(context, job)
    except ObjectLost as error:
        await _lose(context, job, error)
    except Exception as error:
        if passes(error):
            raise
        await _fail(context, job, _explain(error))


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
    found = await connection.fetchrow(_WAITS, job["job_id"], job["stage"], job["finished_at"], job["merge_id"])
    return found is not None


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
