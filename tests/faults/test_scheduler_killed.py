"""A scheduler may die anywhere: whoever runs next goes on from what is committed."""

import asyncio
import signal

import pytest

from tests.grid import Grid


@pytest.mark.parametrize(
    ("loop", "statements"),
    [(loop, statements) for loop in ("plan", "dispatch", "finish", "merge") for statements in (1, 3, 6)]
    + [("clock", 2), ("reap", 2), ("webhooks", 1), ("maintain", 2)],
)
async def test_a_scheduler_killed_in_any_loop_loses_nothing(grid: Grid, loop: str, statements: int) -> None:
    grid.start_worker()
    dying = grid.start("-m", "tests.faults.dying_scheduler", loop, str(statements))
    job_id = await grid.submit()

    assert await asyncio.to_thread(dying.wait) == -signal.SIGKILL
    grid.start_scheduler()

    await grid.assert_right(job_id)


async def test_two_schedulers_work_side_by_side(grid: Grid) -> None:
    grid.start_scheduler()
    grid.start_scheduler()
    grid.start_worker()

    jobs = [await grid.submit() for _ in range(3)]

    for job_id in jobs:
        job = await grid.ended(job_id)
        assert job["state"] == "succeeded"
    for job_id in jobs:
        await grid.assert_right(job_id)
