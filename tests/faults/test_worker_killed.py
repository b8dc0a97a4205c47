"""A worker that dies costs its attempts, never a task."""

from tests.grid import Gate, ProcessGrid


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
