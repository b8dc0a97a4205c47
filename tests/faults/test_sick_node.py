"""A node that can't run tasks harms nobody: no task fails because of it, others do its work, and it ends itself."""

import os
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from tests.forks import Fork
from tests.grid import ProcessGrid
from tests.invariants import assert_kept, rows_of
from tests.until import until


async def submit(grid: ProcessGrid, tasks: int, command: str = "true") -> UUID:
    """A job whose tasks may not fail even once."""
    stage = {"processor": "p", "retry": {"max_attempts": 1}}
    spec = JobSpec.model_validate({"input": {"type": "range", "count": tasks}, "stages": [stage]})
    async with grid.database.acquire() as connection, connection.transaction():
        await register_processor(connection, "p", ProcessorSpec(command=["sh", "-c", command]))
        return await submit_job(connection, spec, settings=grid.settings)


async def start_worker(grid: ProcessGrid, name: str, **settings: Any) -> tuple[Fork, Path]:
    """A worker with a scratch directory of its own, once it has registered; returns that directory, too."""
    before = await grid.database.fetchval("SELECT count(*) FROM workers")
    scratch = grid.directory / name
    worker = grid.start("-m", "services.worker", scratch=scratch, **settings)

    async def registered() -> bool:
        return bool(await grid.database.fetchval("SELECT count(*) FROM workers") > before)

    await until(registered)
    return worker, scratch


def lose_for_good(scratch: Path) -> None:
    """The directory is gone, and can't be made again."""
    shutil.rmtree(scratch)
    scratch.touch()


async def assert_unharmed(grid: ProcessGrid, job_id: UUID) -> None:
    """Each task has succeeded, and none of its attempts counts as a failure."""
    job = await grid.ended(job_id)
    assert (job["state"], job["error"]) == ("succeeded", None)
    rows = await rows_of(grid.database, job_id)
    assert_kept(rows)
    assert {(task["state"], task["failures"]) for task in rows.tasks.values()} == {("succeeded", 0)}
    outcomes = {attempt["outcome"] for attempts in rows.attempts.values() for attempt in attempts}
    assert outcomes <= {"succeeded", "released"}


async def test_a_worker_that_loses_its_scratch_for_good_fails_no_task_and_takes_itself_out_of_service(
    grid: ProcessGrid,
) -> None:
    grid.start_scheduler()
    sick, scratch = await start_worker(grid, "sick")
    sick_id = await grid.database.fetchval("SELECT worker_id FROM workers")
    await start_worker(grid, "well")
    lose_for_good(scratch)

    job_id = await submit(grid, 100, "sleep 0.02")
    await assert_unharmed(grid, job_id)

    assert sick.wait(20) == os.EX_TEMPFAIL
    row = await grid.database.fetchrow("SELECT * FROM workers WHERE worker_id = $1", sick_id)
    assert row["state"] == "stopped"
    assert "3 attempts in a row" in row["quarantine"] and str(scratch) in row["quarantine"]
    released = await grid.database.fetch("SELECT * FROM attempts WHERE job_id = $1 AND outcome = 'released'", job_id)
    unfit = [attempt for attempt in released if (attempt["error"] or {}).get("type") == "node_unfit"]
    assert 3 <= len(unfit) <= 30
    assert {attempt["worker_id"] for attempt in unfit} == {sick_id}


async def test_a_worker_whose_scratch_was_swept_away_makes_it_again_and_goes_on(grid: ProcessGrid) -> None:
    grid.start_scheduler()
    worker, scratch = await start_worker(grid, "only")
    await assert_unharmed(grid, await submit(grid, 4))
    shutil.rmtree(scratch)

    job_id = await submit(grid, 20)
    await assert_unharmed(grid, job_id)

    assert worker.poll() is None
    assert await grid.database.fetchval("SELECT max(losses) FROM tasks WHERE job_id = $1", job_id) == 1


async def test_a_task_that_breaks_every_node_fails_after_as_many_losses_as_a_task_that_kills_them(
    grid: ProcessGrid,
) -> None:
    """It sweeps its worker's scratch directory away each time, which a sandbox would keep it from."""
    grid.start("-m", "services.scheduler")
    worker, scratch = await start_worker(grid, "only", losses_max=2)

    job_id = await submit(grid, 1, f"rm -rf {scratch}/*")
    job = await grid.ended(job_id)

    assert job["state"] == "failed"
    [task] = await grid.database.fetch("SELECT * FROM tasks WHERE job_id = $1", job_id)
    assert (task["losses"], task["failures"], task["error"]["type"]) == (2, 0, "node_unfit")
    assert worker.poll() is None
    assert_kept(await rows_of(grid.database, job_id))


@pytest.mark.parametrize("setting", ["scratch", "cache"])
async def test_a_worker_whose_directories_can_not_be_used_does_not_start(
    grid: ProcessGrid, tmp_path: Path, setting: str
) -> None:
    (tmp_path / "file").touch()

    worker = grid.start("-m", "services.worker", **{setting: tmp_path / "file"})

    assert worker.wait(20) == 2
    assert f"PIECEWORK_{setting.upper()}" in (grid.directory / "0-services.worker.log").read_text()
    assert await grid.database.fetchval("SELECT count(*) FROM workers") == 0
