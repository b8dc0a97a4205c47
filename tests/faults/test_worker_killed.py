"""A worker that dies costs its attempts, never a task."""

import pytest

from tests.grid import Gate, ProcessGrid
from tests.invariants import assert_kept, rows_of


async def test_a_worker_killed_in_mid_task_loses_nothing(grid: ProcessGrid, gate: Gate) -> None:
    grid.start_scheduler()
    victim = grid.start_worker()
    job_id = await grid.submit(gate=gate.path)

    await gate.task_waits()
    victim.kill()
    gate.open()
    grid.start_worker()

    await grid.assert_right(job_id)
    lost = await grid.database.fetch("SELECT error FROM attempts WHERE job_id = $1 AND outcome = 'lost'", job_id)
    assert lost, "the killed worker's attempts are on record"
    assert await grid.database.fetchval("SELECT count(*) FROM workers WHERE state = 'lost'") == 1
    assert await grid.database.fetchval("SELECT max(failures) FROM tasks WHERE job_id = $1", job_id) == 0


@pytest.mark.parametrize("end", ["killed", "told to stop"])
@pytest.mark.parametrize("with_files", [False, True])
async def test_a_worker_that_ends_in_mid_session_loses_nothing(
    grid: ProcessGrid, gate: Gate, end: str, with_files: bool
) -> None:
    """Many tasks have ended in the session, many were sent ahead, and one runs."""
    grid.start_scheduler()
    first = grid.start_worker()
    job_id = await grid.submit_squares(2000, 1500, gate, with_files=with_files)

    await gate.task_waits()
    first.kill() if end == "killed" else first.terminate()
    gate.open()
    grid.start_worker()

    assert (await grid.ended(job_id))["state"] == "succeeded"
    assert_kept(await rows_of(grid.database, job_id))
    tasks = await grid.database.fetch("SELECT index, output, failures FROM tasks WHERE job_id = $1 ORDER BY 1", job_id)
    values = [task["output"]["value"] for task in tasks]
    assert values == [{"square": n * n} if with_files else n * n for n in range(2000)]
    assert {task["failures"] for task in tasks} == {0}
    lost = await grid.database.fetchval("SELECT count(*) FROM attempts WHERE job_id = $1 AND outcome = 'lost'", job_id)
    assert bool(lost) == (end == "killed")


async def test_a_worker_told_to_stop_hands_back_what_it_has_not_begun(grid: ProcessGrid, gate: Gate) -> None:
    grid.start_scheduler()
    first = grid.start_worker()
    job_id = await grid.submit(gate=gate.path)

    await gate.task_waits()
    first.terminate()
    gate.open()
    grid.start_worker()

    await grid.assert_right(job_id)
    assert first.wait(30) == 0
    assert await grid.database.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'lost'") == 0
