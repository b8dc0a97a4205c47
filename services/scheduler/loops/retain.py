"""Retain: what is kept no longer, or was ordered to go, is deleted: first objects, then rows, so much a step.

What expires after its month leaves its rows to the month, which the loop `maintain` drops as a whole.
"""

import time
from typing import Any
from uuid import UUID

import structlog
from asyncpg import Record

from services.contract.layout import Part
from services.contract.location import Location
from services.engine import left_rows, retention
from services.engine.left_rows import Sweep
from services.engine.retention import LEFT, TABLES, Deletion
from services.platform.concurrency import map_at_most
from services.platform.multipart import delete_objects
from services.scheduler.loop import Context, passes

log = structlog.get_logger()

JOBS_ASSESSED_MAX = 100  # by one statement: each of them in some milliseconds
ASSESS_SECONDS = 0.5  # of a step
JOBS_AT_ONCE = 8
PAGES_MAX = 10  # of a job's objects in a step, each of at most 1,000
ROWS_MAX = 1_000  # deleted by one statement
SLICES_MAX = 50  # of a job's rows in a step
HOLD_SECONDS = 300.0  # nobody else takes a step of the same job meanwhile
WAIT_SECONDS = 60.0  # for the roll-up
NEEDED_SECONDS = 3600.0  # until the next look whether results are still needed

_PARTS: dict[str, frozenset[Part]] = {
    "interim": frozenset({"interim"}),
    "results": frozenset({"results"}),
    "all": frozenset({"interim", "results", "records"}),
}


async def step(context: Context) -> bool:
    """A step of some deletions; True if there may be more to do."""
    assessed = await _assess(context)
    deletions = await retention.claim_deletions(context.database, JOBS_AT_ONCE, HOLD_SECONDS)
    left = await retention.claim_left(context.database, JOBS_AT_ONCE, HOLD_SECONDS)
    sweep = await left_rows.claim_sweep(context.database, HOLD_SECONDS)

    async def delete(deletion: Deletion) -> None:
        try:
            await _delete(context, deletion)
        except Exception as error:
            _tell(error, deletion.job_id)

    async def delete_left(job: Record) -> None:
        try:
            await _delete_left(context, job)
        except Exception as error:
            _tell(error, job["job_id"])

    await map_at_most(JOBS_AT_ONCE, delete, deletions)
    await map_at_most(JOBS_AT_ONCE, delete_left, left)
    if sweep is not None:
        await _sweep(context, sweep)
    return bool(assessed or deletions or left or sweep)


async def _assess(context: Context) -> int:
    """Find what is due of jobs that have ended, or of all after a change of a rule; of how many."""
    assessed, until = 0, time.monotonic() + ASSESS_SECONDS
    while True:
        found = await retention.assess_jobs(context.database, JOBS_ASSESSED_MAX)
        assessed += found
        if found < JOBS_ASSESSED_MAX or time.monotonic() >= until:
            return assessed


def _tell(error: Exception, job_id: UUID) -> None:
    """The job is tried again when it is no longer held."""
    log.warning("deletion put off", job=str(job_id), error=repr(error), exc_info=not passes(error))


async def _delete(context: Context, deletion: Deletion) -> None:
    takes_results = deletion.part == "results" or (deletion.part == "all" and not deletion.keeps_results)
    if deletion.is_new and takes_results and await retention.find_need(context.database, deletion.place):
        await retention.call_off(context.database, deletion, NEEDED_SECONDS)
        return
    if "rows" not in deletion.progress:
        over = await _delete_objects(context, deletion)
    else:
        over = await _delete_rows(context, deletion)
    if over is None:
        return
    if not over:
        await retention.put_off(context.database, deletion, 0)
    elif deletion.part != "all":
        await retention.end_deletion(context.database, deletion)
        log.info("deleted", job=str(deletion.job_id), part=deletion.part)


async def _delete_objects(context: Context, deletion: Deletion) -> bool | None:
    """Delete some of the part's objects; whether none is left. None: the deletion is not wanted any more.

    A page is listed, then the deletion is confirmed, and then the page goes: a job that is retried meanwhile writes
    other objects, which are not on it.
    """
    wanted = _PARTS[deletion.part] - ({"results"} if deletion.keeps_results else set())
    layout, database = context.settings.layout, context.database
    prefixes = [layout.interim(deletion.job_id)] * ("interim" in wanted) + [layout.job(deletion.job_id)]
    after = str(deletion.progress.get("after", ""))
    pages = 0
    for prefix in prefixes:
        if after and not after.startswith(prefix.key):
            continue  # the step before has finished it
        while True:
            page = await _list(context, prefix, after)
            keys = [
                entry["Key"]
                for entry in page.get("Contents", [])
                if layout.part_of(deletion.job_id, entry["Key"], deletion.results_stage) in wanted
            ]
            if not await retention.advance(database, deletion, {"after": after}, HOLD_SECONDS):
                return None
            if keys:
                await delete_objects(context.aws.s3, prefix.bucket, keys)
            pages += 1
            if not page.get("IsTruncated"):
                after = ""
                break
            after = page["Contents"][-1]["Key"]
            if pages >= PAGES_MAX:
                return False if await retention.advance(database, deletion, {"after": after}, HOLD_SECONDS) else None
    if deletion.part != "all":
        return True
    return False if await retention.advance(database, deletion, _rows_of(TABLES[0]), HOLD_SECONDS) else None


async def _list(context: Context, prefix: Location, after: str) -> dict[str, Any]:
    start = {"StartAfter": after} if after else {}
    page: dict[str, Any] = await context.aws.s3.list_objects_v2(Bucket=prefix.bucket, Prefix=prefix.key, **start)
    return page


def _rows_of(table: str, after: tuple[int, int] = (-1, -1)) -> dict[str, Any]:
    return {"rows": table, "stage": after[0], "index": after[1]}


async def _delete_rows(context: Context, deletion: Deletion) -> bool | None:
    """Delete some of the job's rows, at last the job; False if more are left, None if there is nothing to do now."""
    database, job_id = context.database, deletion.job_id
    if not await retention.is_rolled_up(database, job_id):
        await retention.put_off(database, deletion, WAIT_SECONDS)
        return None
    table = str(deletion.progress["rows"])
    after = (int(deletion.progress["stage"]), int(deletion.progress["index"]))
    if table in LEFT and await retention.leaves_rows(database, job_id, deletion.is_ordered):
        table, after = next(name for name in TABLES if name not in LEFT), (-1, -1)
    for _ in range(SLICES_MAX):
        last = await retention.delete_slice(database, job_id, table, after, ROWS_MAX)
        if last is not None:
            after = last
        elif table != TABLES[-1]:
            table, after = TABLES[TABLES.index(table) + 1], (-1, -1)
        elif await retention.forget_job(database, deletion):
            log.info("deleted", job=str(job_id), part="all", results_kept=deletion.keeps_results)
            return None
        else:
            table, after = TABLES[0], (-1, -1)
    return False if await retention.advance(database, deletion, _rows_of(table, after), HOLD_SECONDS) else None


async def _delete_left(context: Context, job: Record) -> None:
    """Delete some of what a deleted job has left."""
    job_id, s3, pages = job["job_id"], context.aws.s3, 0
    for prefix in context.settings.layout.prefixes(job_id) if job["has_results"] else ():
        while keys := [entry["Key"] for entry in (await _list(context, prefix, "")).get("Contents", [])]:
            if pages == PAGES_MAX:
                await retention.put_off_left(context.database, job_id, 0)
                return
            await delete_objects(s3, prefix.bucket, keys)
            pages += 1
    await retention.forget_left(context.database, job_id)


async def _sweep(context: Context, sweep: Sweep) -> None:
    """Delete some of what forgotten jobs have left in a month that is still there, since others are kept in it."""
    database, swept_to = context.database, sweep.swept_to
    for _ in range(JOBS_AT_ONCE):
        found = await left_rows.next_job(database, sweep, swept_to)
        if found is None:
            await left_rows.end_sweep(database, sweep)
            log.info("month swept", month=sweep.month)
            return
        job_id, is_kept = found
        if not is_kept and not await _sweep_job(context, job_id):
            break
        swept_to = job_id
    await left_rows.advance(database, sweep, swept_to, 0)


async def _sweep_job(context: Context, job_id: UUID) -> bool:
    """Delete some of what a forgotten job has left; whether that was all."""
    for table in LEFT:
        after = (-1, -1)
        for _ in range(SLICES_MAX):
            last = await retention.delete_slice(context.database, job_id, table, after, ROWS_MAX)
            if last is None:
                break
            after = last
        else:
            return False
    await retention.forget_sums(context.database, job_id)
    return True
