"""What a node could not run is a loss of the task, not a failure, and another worker tries it."""

from typing import Any
from uuid import UUID

from services.engine import transitions
from services.engine.attempt import ClaimedTask
from services.engine.progress import is_slowed
from tests.integration.engine.play import Play, add_pool, finished
from tests.invariants import assert_invariants

LOSSES_MAX = 3


async def release(play: Play, worker_id: UUID, tasks: list[ClaimedTask], **facts: Any) -> None:
    """The worker's node could not run these tasks; their waits are over."""
    error = {"type": "node_unfit", "message": "its disk is full"}
    reports = [finished(task, "released", losses_max=LOSSES_MAX, error=error, **facts) for task in tasks]
    await play.complete(worker_id, *reports, done=tasks)
    await play.make_due(tasks[0].job_id)


async def test_it_waits_for_its_next_try_and_counts_no_failure(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)
    report = finished(task, "released", losses_max=LOSSES_MAX, error={"type": "node_unfit", "message": "broken"})

    for _ in range(2):
        await play.complete(worker_id, report, done=[task])

    row = await play.database.fetchrow("SELECT *, ready_at > now() AS waits FROM tasks WHERE job_id = $1", job_id)
    assert (row["state"], row["losses"], row["failures"], row["waits"]) == ("ready", 1, 0, True)
    await assert_invariants(play.database, job_id)


async def test_another_worker_tries_it_if_there_is_one(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    sick, well = await play.register(), await play.register()
    await release(play, sick, await play.run(sick, job_id))

    messages = await play.dispatch(job_id)

    assert [message.avoid for message in messages] == [sick]
    assert await play.claim(sick, messages) == []
    assert len(await play.claim(well, messages)) == 1


async def test_a_worker_that_is_the_only_one_tries_it_again(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    only, gone = await play.register(), await play.register()
    await play.database.execute("UPDATE workers SET state = 'draining' WHERE worker_id = $1", gone)
    await add_pool(play.database, "another")
    await play.register("another")
    await release(play, only, await play.run(only, job_id))

    messages = await play.dispatch(job_id)

    assert [message.avoid for message in messages] == [None]
    assert len(await play.claim(only, messages)) == 1


async def test_any_worker_may_try_what_the_others_have_not_taken_in_time(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    sick, _busy = await play.register(), await play.register()
    await release(play, sick, await play.run(sick, job_id))
    await play.dispatch(job_id)
    await play.database.execute("UPDATE bundles SET send_at = now()")

    [(_, message)] = await transitions.resend(play.database, 60, 10)

    assert message.avoid is None
    assert len(await play.claim(sick, [message])) == 1


async def test_a_task_that_no_node_can_run_fails_in_the_end(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 1)
    for _ in range(LOSSES_MAX):
        worker_id = await play.register()
        await release(play, worker_id, await play.run(worker_id, job_id))

    row = await play.database.fetchrow("SELECT * FROM tasks WHERE job_id = $1", job_id)
    assert (row["state"], row["losses"], row["failures"]) == ("failed", LOSSES_MAX, 0)
    assert row["error"]["type"] == "node_unfit"
    await assert_invariants(play.database, job_id)


async def test_a_tasks_time_is_learned_from_successes_and_no_fault_of_a_node_slows_its_stage(play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 300)
    sick, well = await play.register(), await play.register()
    await play.database.execute("UPDATE stages SET retry_budget = 1 WHERE job_id = $1", job_id)
    await release(play, sick, await play.run(sick, job_id, tasks=200, bundle=1))
    [failed, *succeeded] = await play.run(well, job_id, tasks=3, bundle=1)
    reports = [finished(failed, "failed"), *(finished(task) for task in succeeded)]
    await play.complete(well, *reports, done=[failed, *succeeded])

    stage = await play.database.fetchrow("SELECT * FROM running_stages WHERE job_id = $1", job_id)
    assert stage["task_seconds"] == 0.5
    assert not is_slowed(dict(stage))
    assert stage["attempts"] == 3
