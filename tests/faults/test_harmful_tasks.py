"""What a task does to its worker costs that task, not its neighbours and not the pool."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest
from asyncpg import Record

from services.contract.location import Location
from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from tests.forks import Fork
from tests.grid import ProcessGrid

TASKS, HARMFUL = 20, 7
LOSSES_MAX = 4
NAMESPACE = ("unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []))


async def submit(grid: ProcessGrid, function: str, **job: Any) -> UUID:
    """A job of `harmful:<function>`: of its TASKS tasks, HARMFUL does harm, as often as it is tried."""
    stage = {
        "processor": function,
        "params": {"index": HARMFUL},
        "retry": {"max_attempts": 2, "backoff_seconds": 0.1},
        "tolerated_failures": 1,
    }
    stage |= job.pop("stage", {})
    spec = {"input": {"type": "range", "count": TASKS}, "stages": [stage]} | job
    async with grid.database.acquire() as connection, connection.transaction():
        await register_processor(connection, function, ProcessorSpec(callable=f"harmful:{function}"))
        return await submit_job(connection, JobSpec.model_validate(spec), settings=grid.settings)


@asynccontextmanager
async def restarted_workers(grid: ProcessGrid, **settings: Any) -> AsyncIterator[list[Fork]]:
    """Two workers; one that dies is started again, as Auto Scaling would. The list has all that were started."""
    started = [grid.start("-m", "services.worker", **settings) for _ in range(2)]

    async def restart() -> None:
        while True:
            for process in [process for process in started if process.returncode is None]:
                if process.poll() is not None:
                    started.append(grid.start("-m", "services.worker", **settings))
            await asyncio.sleep(0.05)

    restarting = asyncio.create_task(restart())
    try:
        yield started
    finally:
        restarting.cancel()


async def harmful_task(grid: ProcessGrid, job_id: UUID) -> Record:
    """The harmful task, once the job has ended: it alone has failed."""
    job = await grid.ended(job_id)
    assert (job["state"], job["error"]) == ("succeeded", None)
    tasks = await grid.database.fetch("SELECT * FROM tasks WHERE job_id = $1 ORDER BY index", job_id)
    assert [task["index"] for task in tasks if task["state"] != "succeeded"] == [HARMFUL]
    return tasks[HARMFUL]


async def test_a_task_that_kills_its_worker_every_time_fails_alone(grid: ProcessGrid) -> None:
    grid.start("-m", "services.scheduler", losses_max=LOSSES_MAX)
    async with restarted_workers(grid) as started:
        job_id = await submit(grid, "kill_worker")
        task = await harmful_task(grid, job_id)

    assert (task["state"], task["losses"], task["failures"]) == ("failed", LOSSES_MAX, 0)
    assert task["error"]["type"] == "lost"
    assert [process.returncode for process in started].count(-9) == LOSSES_MAX
    neighbours = await grid.database.fetchval(
        "SELECT max(losses) FROM tasks WHERE job_id = $1 AND index <> $2", job_id, HARMFUL
    )
    assert neighbours <= 2, "then they never run beside the culprit again"


@pytest.mark.parametrize(
    ("function", "stage", "error"),
    [("segfault", {}, "crash"), ("hoard", {"memory_bytes": 200 << 20}, "memory")],
)
async def test_a_task_that_breaks_its_process_fails_after_its_attempts_and_its_worker_lives(
    grid: ProcessGrid, function: str, stage: dict[str, Any], error: str
) -> None:
    grid.start_scheduler()
    worker = grid.start_worker()
    task = await harmful_task(grid, await submit(grid, function, stage=stage))

    assert (task["failures"], task["losses"], task["error"]["type"]) == (2, 0, error)
    assert worker.poll() is None


@pytest.fixture
def worker_on_a_small_disk(grid: ProcessGrid) -> Iterator[subprocess.Popen[bytes]]:
    """A worker whose scratch directory is a file system of two megabytes, in a mount namespace of its own."""
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a mount namespace")
    scratch = grid.directory / "small"
    scratch.mkdir()
    mount = f'mount -t tmpfs -o size=2m small "$PIECEWORK_SCRATCH" && exec {sys.executable} -m "$0"'
    worker = grid.spawn([*NAMESPACE, "sh", "-c", mount, "services.worker"], scratch=scratch)
    yield worker
    assert worker.poll() is None, "the worker lives"


@pytest.mark.usefixtures("worker_on_a_small_disk")
async def test_a_task_that_fills_the_disk_fails_its_attempt_and_its_neighbours_go_on(grid: ProcessGrid) -> None:
    grid.start_scheduler()

    task = await harmful_task(grid, await submit(grid, "fill_disk"))

    assert (task["failures"], task["error"]["type"]) == (2, "disk_full")


@pytest.mark.usefixtures("worker_on_a_small_disk")
async def test_an_input_larger_than_the_disk_fails_its_attempt(grid: ProcessGrid) -> None:
    grid.start_scheduler()
    for number in range(TASKS):
        body = bytes(4 << 20 if number == HARMFUL else 10)
        await grid.aws.s3.put_object(Bucket=grid.settings.bucket, Key=f"parts/{number:02}", Body=body)
    prefix = Location(grid.settings.bucket, "parts/").uri
    job_id = await submit(
        grid,
        "segfault",
        input={"type": "objects", "prefix": prefix},
        stage={"params": {"index": -1}, "retry": {"max_attempts": 2, "backoff_seconds": 2}},  # the disk is full for all
    )

    task = await harmful_task(grid, job_id)

    assert (task["failures"], task["error"]["type"]) == (2, "disk_full")


async def test_a_job_whose_tasks_all_fail_ends_after_a_few_of_them(grid: ProcessGrid) -> None:
    grid.start_scheduler()
    grid.start_worker()
    many = {"type": "range", "count": 50_000}

    job = await grid.ended(await submit(grid, "fail", input=many, stage={"params": {}}))

    assert job["state"] == "failed"
    assert "tasks failed, 1 tolerated; the first, task" in job["error"]["message"]
    states = await grid.database.fetch(
        "SELECT state, count(*) FROM tasks WHERE job_id = $1 GROUP BY state", job["job_id"]
    )
    counts = {row["state"]: row["count"] for row in states}
    assert counts.keys() == {"failed", "cancelled"}
    assert counts["failed"] < 500
    assert counts["cancelled"] < 50_000  # the others were never made
