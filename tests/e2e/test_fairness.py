"""A small job is not kept waiting by a huge one, whether the two have a share each or one together.

Time is told in tasks that the huge job starts meanwhile, so that a slow machine does not matter.
"""

from typing import Any
from uuid import UUID

import pytest

from services.engine.jobs import cancel_job
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.grid import ProcessGrid
from tests.until import until

NAP_SECONDS = 0.05
SLOTS = 4
TASKS_PER_SECOND = SLOTS / NAP_SECONDS  # if the grid did nothing but these tasks


async def submit(grid: ProcessGrid, tasks: int, **job: Any) -> UUID:
    stage = {"processor": "nap", "params": {"seconds": NAP_SECONDS}}
    spec = JobSpec.model_validate({"input": {"type": "range", "count": tasks}, "stages": [stage]} | job)
    async with grid.database.acquire() as connection, connection.transaction():
        return await submit_job(connection, spec, settings=grid.settings)


async def seconds_of_work(grid: ProcessGrid, huge: UUID, small: UUID, until: str) -> float:
    """What the huge job started between the submission of the small one and a moment, in seconds of the whole grid."""
    started = await grid.database.fetchval(
        f"""SELECT count(*) FROM attempts WHERE job_id = $1
            AND started_at > (SELECT created_at FROM jobs WHERE job_id = $2)
            AND started_at < (SELECT {until} FROM tasks WHERE job_id = $2)""",
        huge,
        small,
    )
    return float(started / TASKS_PER_SECOND)


@pytest.mark.parametrize("shares", [("claims", "media"), ("claims", "claims")])
async def test_ten_tasks_are_done_while_a_million_wait(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any, shares: tuple[str, str]
) -> None:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    async with database.acquire() as connection, connection.transaction():
        await register_processor(connection, "nap", ProcessorSpec(callable="naps:nap"))
    grid.start_scheduler()
    grid.start_worker()
    grid.start_worker()
    try:
        huge = await submit(grid, 1_000_000, share=shares[0])
        await until(lambda: database.fetchval("SELECT count(*) > 100 FROM attempts"))  # the huge job is in full swing

        small = await submit(grid, 10, share=shares[1])

        assert (await grid.ended(small))["state"] == "succeeded"
        assert await seconds_of_work(grid, huge, small, "min(started_at)") < 2.0
        assert await seconds_of_work(grid, huge, small, "max(finished_at)") < 4.0
        assert (await grid.job(huge))["state"] == "running"
    finally:
        grid.stop()


async def test_a_task_is_done_at_once_beside_huge_jobs_of_tasks_that_take_no_time(
    settings: Settings, database: Database, aws: Aws, tmp_path: Any
) -> None:
    grid = ProcessGrid(settings, database, aws, tmp_path)
    await grid.prepare()
    async with database.acquire() as connection, connection.transaction():
        await register_processor(connection, "noop", ProcessorSpec(builtin="noop"))
    chain = [{"name": f"s{n}", "processor": "noop"} for n in range(20)]
    grid.start_scheduler()
    grid.start_worker()
    try:
        huge = [await submit(grid, 10_000_000, stages=chain, share=f"share-{n}") for n in range(3)]
        done = "SELECT job_id, count(*) FROM attempts GROUP BY job_id"
        busy = "SELECT count(*) = 3 AND min(n) > 1000 FROM (SELECT count(*) AS n FROM attempts GROUP BY job_id) AS j"
        await until(lambda: database.fetchval(busy))
        small = await submit(grid, 1, stages=chain[:1], share="small")

        assert (await grid.ended(small))["state"] == "succeeded"

        counts = {row["job_id"]: row["count"] for row in await database.fetch(done)}
        assert min(counts[job_id] for job_id in huge) > max(counts.values()) / 4
        started = "SELECT count(*) FROM attempts WHERE started_at BETWEEN $1 AND $2"
        waited = await database.fetchrow(
            "SELECT j.created_at, min(t.started_at) AS started_at FROM jobs AS j JOIN tasks AS t USING (job_id) "
            "WHERE job_id = $1 GROUP BY j.created_at",
            small,
        )
        assert waited is not None
        assert await database.fetchval(started, *waited) < 20_000, "a few windows of a worker with two slots"
        ready = (
            "SELECT max(n) FROM (SELECT count(*) AS n FROM tasks WHERE ready_at IS NOT NULL GROUP BY job_id, stage) s"
        )
        assert await database.fetchval(ready) < 20_000
        for job_id in huge:
            async with database.acquire() as connection:
                await cancel_job(connection, job_id)
        assert [(await grid.ended(job_id))["state"] for job_id in huge] == ["cancelled"] * 3
    finally:
        grid.stop()
