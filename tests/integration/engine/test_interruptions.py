"""What is lost with an instance that EC2 is known to end counts against no task."""

import pytest

from services.engine import workers
from tests.integration.engine.play import Play
from tests.invariants import assert_invariants


async def interrupt(play: Play, *, interrupted: bool) -> tuple[int, str]:
    """A task loses its worker, which drained, more often than it may. Returns its losses and its state."""
    job_id = await play.submit()
    await play.plan(job_id, 1)
    for _ in range(play.settings.losses_max + 1):
        worker_id = await play.register()
        if not await play.run(worker_id, job_id):
            break
        async with play.database.acquire() as connection:
            await workers.drain_worker(connection, worker_id, "EC2 takes it back", interrupted=interrupted)
        assert await play.lose(worker_id) == 1
        await play.make_due(job_id)
    await assert_invariants(play.database, job_id)
    row = await play.database.fetchrow("SELECT losses, state FROM tasks WHERE job_id = $1", job_id)
    assert row is not None
    return row["losses"], row["state"]


@pytest.mark.parametrize(("interrupted", "task"), [(True, (0, "ready")), (False, (5, "failed"))])
async def test_a_loss_counts_unless_ec2_was_known_to_end_the_instance(
    play: Play, interrupted: bool, task: tuple[int, str]
) -> None:
    assert await interrupt(play, interrupted=interrupted) == task


async def test_a_drain_keeps_its_first_reason_and_moment_unless_told_another(play: Play) -> None:
    worker_id = await play.register()
    async with play.database.acquire() as connection:
        await workers.drain_worker(connection, worker_id, "an operator drained it", replace_instance=True)
        await workers.drain_worker(connection, worker_id, None)
        await workers.drain_worker(connection, worker_id, "EC2 takes it back", interrupted=True)
        await workers.drain_worker(connection, worker_id, None)
    row = await play.database.fetchrow("SELECT * FROM workers")
    assert (row["state"], row["drain_reason"], row["replace_instance"]) == ("draining", "EC2 takes it back", True)
    assert row["interrupted_at"] is not None
    beat = await workers.heartbeat(play.database, worker_id, 0)
    assert (beat.state, beat.replace_instance) == ("draining", True)
