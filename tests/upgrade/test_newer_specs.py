"""What a newer API has stored, in a grid of this release: it holds up nothing else, and costs next to nothing."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from services.platform.aws import Aws
from services.platform.database import Database
from services.platform.settings import Settings
from tests.grid import ProcessGrid, until


@pytest.fixture
async def grid(settings: Settings, database: Database, aws: Aws, tmp_path: Path) -> AsyncIterator[ProcessGrid]:
    quick = settings.model_copy(update={"lease_seconds": 2.0, "heartbeat_seconds": 0.2, "resend_seconds": 1.0})
    grid = ProcessGrid(quick, database, aws, tmp_path)
    await grid.prepare()
    yield grid
    grid.stop()


async def submit(grid: ProcessGrid, name: str, tasks: int, **stored: Any) -> UUID:
    """A job of no-ops; `stored` is what a newer API has stored of its processor."""
    spec = {"input": {"type": "range", "count": tasks}, "stages": [{"processor": name}]}
    async with grid.database.acquire() as connection, connection.transaction():
        await register_processor(connection, name, ProcessorSpec(builtin="noop"))
        job_id = await submit_job(connection, JobSpec.model_validate(spec), settings=grid.settings)
        if stored:
            await connection.execute("UPDATE processors SET spec = $2 WHERE name = $1", name, stored)
    return job_id


async def test_a_stage_that_no_worker_can_read_does_not_stall_its_pool(grid: ProcessGrid) -> None:
    stuck = await submit(grid, "newer", 50, quantum="entangle:pairs")
    grid.start_scheduler()
    grid.start_worker()

    async def was_put_off() -> bool:
        return bool(await grid.database.fetchval("SELECT count(*) > 1 FROM bundles WHERE put_off > 1"))

    await until(was_put_off)
    async with asyncio.timeout(30):
        with_a_new_field = await grid.ended(await submit(grid, "new-field", 4, builtin="noop", field_of_the_next=1))
        plain = await grid.ended(await submit(grid, "plain", 4))

    assert (with_a_new_field["state"], plain["state"]) == ("succeeded", "succeeded")
    assert (await grid.job(stuck))["state"] == "running"
    assert await grid.database.fetchval("SELECT count(*) FROM attempts WHERE job_id = $1", stuck) == 0
    worker = (grid.directory / "1-services.worker.log").read_text()
    assert '"bundle put off"' in worker and '"database"' not in worker
