"""Plan: the input of a job becomes the ready tasks of its first stage, a chunk and its cursor in one transaction."""

import asyncio
from typing import Any

import structlog
from asyncpg import Record
from pydantic import TypeAdapter

from services.common.inputs import Input
from services.common.slots import POOL_SLOTS
from services.common.splitters import split_each, split_on_grid
from services.scheduler.loop import Grid, passes
from services.scheduler.planning import explain, fail_plan, save_chunk

log = structlog.get_logger()

JOBS_AT_ONCE = 8
_INPUTS: TypeAdapter[list[Input]] = TypeAdapter(list[Input])

_UNPLANNED = f"""
    SELECT j.job_id, j.spec -> 'input' AS input, s.kind, s.plan_cursor, {POOL_SLOTS} AS slots
    FROM jobs AS j JOIN stages AS s ON s.job_id = j.job_id AND s.stage = 0
    WHERE j.state = 'running' AND s.state = 'running' AND NOT s.planned
    ORDER BY j.priority DESC, j.job_id LIMIT $1"""


async def step(grid: Grid) -> bool:
    """Plan one more chunk of some jobs; raises, after all have been tried, if S3 or the database failed every one."""
    jobs = await grid.pool.fetch(_UNPLANNED, JOBS_AT_ONCE)
    results = await asyncio.gather(*(_plan_chunk(grid, job) for job in jobs), return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    if errors and len(errors) == len(jobs):
        raise errors[0]
    return bool(jobs)


async def _plan_chunk(grid: Grid, job: Record) -> None:
    job_id, cursor = job["job_id"], job["plan_cursor"]
    sources = job["input"] if isinstance(job["input"], list) else [job["input"]]
    splitting = split_on_grid if job["kind"] == "split" else split_each
    try:
        chunk = await splitting(grid.aws.s3, _INPUTS.validate_python(sources), cursor, job["slots"])
        await save_chunk(grid, job_id, 0, chunk, cursor)
    except Exception as error:
        if passes(error):
            log.warning("split put off", job=str(job_id), error=repr(error))
            raise
        await fail_plan(grid, job_id, 0, explain(error, _where(sources, cursor)), cursor)


def _where(sources: list[dict[str, Any]], cursor: dict[str, Any] | None) -> str | None:
    source = sources[cursor["input"] if cursor else 0]
    return source.get("uri") or source.get("prefix")
