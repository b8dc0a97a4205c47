"""Any number of schedulers may run: what one does, the others find done."""

from tests.grid import ProcessGrid


async def test_two_schedulers_work_side_by_side(grid: ProcessGrid) -> None:
    grid.start_scheduler()
    grid.start_scheduler()
    grid.start_worker()

    jobs = [await grid.submit() for _ in range(3)]

    for job_id in jobs:
        job = await grid.ended(job_id)
        assert job["state"] == "succeeded"
    for job_id in jobs:
        await grid.assert_right(job_id)
