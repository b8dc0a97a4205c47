"""A task that hangs on one worker is done by another, if its processor allows that."""

from uuid import UUID

import pytest

from services.engine.processors import register_processor
from services.engine.spec import JobSpec, ProcessorSpec
from services.engine.submission import submit_job
from tests.grid import Gate, ProcessGrid
from tests.until import until

TASKS, LATE = 12, 5


async def submit(grid: ProcessGrid, gate: Gate, *, idempotent: bool) -> UUID:
    """A job of TASKS tasks, of which LATE hangs in its first attempt."""
    job = {
        "input": {"type": "range", "count": TASKS},
        "stages": [{"processor": "late", "params": {"index": LATE, "gate": gate.path}}],
    }
    async with grid.database.acquire() as connection, connection.transaction():
        spec = ProcessorSpec(callable="late:hang_once", idempotent=idempotent)
        await register_processor(connection, "late", spec)
        return await submit_job(connection, JobSpec.model_validate(job), settings=grid.settings)


@pytest.fixture
def workers(grid: ProcessGrid) -> None:
    """A scheduler and two workers, impatient ones."""
    grid.start("-m", "services.scheduler", straggler_seconds=0.5)
    grid.start_worker()
    grid.start_worker()


@pytest.mark.usefixtures("workers")
async def test_a_hanging_task_is_done_elsewhere_and_the_hanging_attempt_is_killed(
    grid: ProcessGrid, gate: Gate
) -> None:
    job_id = await submit(grid, gate, idempotent=True)

    assert (await grid.ended(job_id))["state"] == "succeeded"  # though the gate is shut

    task = await grid.database.fetchrow("SELECT * FROM tasks WHERE job_id = $1 AND index = $2", job_id, LATE)
    assert (task["attempt"], task["output"]) == (2, {"value": {"attempt": "2"}})
    attempts = await grid.database.fetch(
        "SELECT attempt, outcome, worker_id FROM attempts WHERE job_id = $1 AND index = $2 ORDER BY attempt",
        job_id,
        LATE,
    )
    assert [(a["attempt"], a["outcome"]) for a in attempts] == [(1, "cancelled"), (2, "succeeded")]
    assert attempts[0]["worker_id"] != attempts[1]["worker_id"]

    async def all_idle() -> bool:
        return await grid.database.fetchval("SELECT sum(busy) = 0 FROM workers")

    await until(all_idle)  # the loser's slot is free again
    assert await grid.database.fetchval("SELECT count(*) FROM bundles") == 0


@pytest.mark.usefixtures("workers")
async def test_what_may_not_run_twice_is_waited_for(grid: ProcessGrid, gate: Gate) -> None:
    job_id = await submit(grid, gate, idempotent=False)

    async def peers_are_done() -> bool:
        return await grid.database.fetchval(
            "SELECT count(*) = $2 FROM tasks WHERE job_id = $1 AND state = 'succeeded'", job_id, TASKS - 1
        )

    await until(peers_are_done)

    async def late() -> bool:
        return await grid.database.fetchval(
            "SELECT now() - started_at > interval '2 seconds' FROM tasks WHERE job_id = $1 AND index = $2", job_id, LATE
        )

    await until(late)
    assert await grid.database.fetchval("SELECT count(*) FROM bundles WHERE backup_of IS NOT NULL") == 0
    gate.open()
    assert (await grid.ended(job_id))["state"] == "succeeded"
    assert (
        await grid.database.fetchval(
            "SELECT count(*) FROM attempts WHERE job_id = $1 AND outcome = 'cancelled'", job_id
        )
        == 0
    )
