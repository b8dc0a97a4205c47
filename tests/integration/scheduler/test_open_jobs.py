"""Jobs whose items come while they run: tasks are made as items come, and the job ends when it was closed."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.engine import jobs, open_jobs, workers
from services.engine.errors import Conflict, NotFound
from services.platform.database import new_id
from services.scheduler.loop import Context
from services.scheduler.loops import clock, finish, plan
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play, finished, until_blocked
from tests.integration.scheduler.conftest import finish_job
from tests.invariants import assert_invariants

STREAM = {"type": "stream", "idle_seconds": 60}


async def append(play: Play, job_id: UUID, chunk: int, items: list[Any], ready_max: int = 100) -> open_jobs.Appended:
    async with play.database.acquire() as connection, connection.transaction():
        return await open_jobs.append_items(connection, job_id, chunk, items, ready_max)


async def close(play: Play, job_id: UUID) -> None:
    async with play.database.acquire() as connection, connection.transaction():
        await open_jobs.close_job(connection, job_id)


async def cancel(play: Play, job_id: UUID, *items: int) -> list[int]:
    async with play.database.acquire() as connection, connection.transaction():
        return await open_jobs.cancel_items(connection, job_id, items)


async def forget(play: Play, job_id: UUID) -> None:
    """An hour passes in which nobody appends anything."""
    await play.database.execute(
        "UPDATE stages SET appended_at = appended_at - interval '1 hour' WHERE job_id = $1", job_id
    )


async def test_items_become_tasks_at_once_and_the_job_ends_when_it_is_closed(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    assert await append(play, job_id, 0, ["a", {"b": 1}]) == open_jobs.Appended(chunks=1, items=2)
    await play.run_all(job_id)
    await plan.step(context)
    await finish.step(context)
    assert (await play.job(job_id))["state"] == "running"

    await append(play, job_id, 1, [None])
    await close(play, job_id)
    await play.run_all(job_id)

    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert [(await play.task(job_id, index))["input"]["value"] for index in range(3)] == ["a", {"b": 1}, None]


async def test_a_chunk_that_is_sent_again_appends_nothing_more(play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    first = await append(play, job_id, 0, [1, 2])
    assert await append(play, job_id, 0, [1, 2]) == first
    with pytest.raises(Conflict, match="send chunk 1 first"):
        await append(play, job_id, 2, [3])
    await append(play, job_id, 1, [3])
    await close(play, job_id)
    await close(play, job_id)

    assert await append(play, job_id, 1, [3]) == open_jobs.Appended(chunks=2, items=3)
    with pytest.raises(Conflict, match="this job is closed"):
        await append(play, job_id, 2, [4])
    assert await play.states(job_id) == {"ready": 3}


async def test_a_job_that_has_enough_tasks_takes_more_when_some_have_started(play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    await append(play, job_id, 0, list(range(200)), ready_max=200)
    with pytest.raises(open_jobs.EnoughItems):
        await append(play, job_id, 1, [200], ready_max=200)
    assert (await append(play, job_id, 1, [], ready_max=200)).chunks == 2  # it only says that more will come

    await play.dispatch(job_id, tasks=1)
    assert (await append(play, job_id, 2, [200], ready_max=200)).items == 201


async def test_an_open_job_is_paused_cancelled_and_retried_like_any_other(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    await append(play, job_id, 0, [1])
    await play.order(jobs.pause_job, job_id)
    await append(play, job_id, 1, [2])
    assert await play.dispatch(job_id) == []
    await play.order(jobs.resume_job, job_id)
    await play.order(jobs.cancel_job, job_id)
    with pytest.raises(Conflict, match="cancelling takes no more items"):
        await append(play, job_id, 2, [3])
    assert (await finish_job(context, play, job_id))["state"] == "cancelled"

    await play.order(jobs.retry_job, job_id)
    await append(play, job_id, 2, [3])
    await close(play, job_id)
    await play.run_all(job_id)

    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await play.states(job_id) == {"succeeded": 3}


async def test_a_job_for_later_collects_its_items_before_it_starts(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM, run_at="2099-01-01T00:00:00Z")
    await append(play, job_id, 0, [1])
    await close(play, job_id)
    await play.database.execute("UPDATE jobs SET run_at = now() WHERE job_id = $1", job_id)
    async with play.database.acquire() as connection, connection.transaction():
        assert await jobs.start_due_jobs(connection, 10) == 1
    await play.run_all(job_id)

    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"


@pytest.mark.parametrize("run_at", [None, "2099-01-01T00:00:00Z"])
async def test_a_retry_that_waits_for_other_jobs_keeps_the_items_that_came_before_it(
    context: Context, play: Play, run_at: str | None
) -> None:
    first = await play.submit()
    job_id = await play.submit(input=STREAM, after=[str(first)], run_at=run_at)
    await append(play, job_id, 0, [1, 2])
    await play.order(jobs.cancel_job, job_id)
    await finish_job(context, play, job_id)

    await play.order(jobs.retry_job, job_id)
    job, stage = await play.job(job_id), await play.stage(job_id)
    assert (job["state"], stage["state"], stage["started_at"]) == ("scheduled", "waiting", None)
    assert await play.dispatch(job_id) == []
    await append(play, job_id, 1, [3])
    assert await cancel(play, job_id, 2) == [2]
    await close(play, job_id)
    await play.plan(first, 1)
    await play.run_all(first)
    await finish_job(context, play, first, Merger().step)
    await clock.step(context)
    await play.database.execute("UPDATE jobs SET run_at = now() WHERE job_id = $1 AND run_at IS NOT NULL", job_id)
    await clock.step(context)
    await play.run_all(job_id)

    assert await play.states(job_id) == {"succeeded": 2, "cancelled": 1}
    await assert_invariants(play.database, job_id)


async def test_the_time_in_which_a_retried_job_waits_for_its_own_does_not_count(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(input=STREAM, after=[str(first)], run_at="2099-01-01T00:00:00Z")
    await play.order(jobs.cancel_job, job_id)
    await finish_job(context, play, job_id)
    await play.order(jobs.retry_job, job_id)
    await play.plan(first, 1)
    await play.run_all(first)
    await finish_job(context, play, first, Merger().step)
    await clock.step(context)
    await forget(play, job_id)
    await play.database.execute("UPDATE jobs SET run_at = now() WHERE job_id = $1", job_id)
    await clock.step(context)
    await finish.step(context)
    assert (await play.job(job_id))["state"] == "running"


async def test_a_job_without_items_succeeds_when_it_is_closed(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    await close(play, job_id)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"


async def test_a_job_that_nobody_closes_fails_once_its_tasks_have_ended(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    await append(play, job_id, 0, [1, 2])
    await forget(play, job_id)
    await finish.step(context)
    assert (await play.job(job_id))["state"] == "running"

    await play.run_all(job_id)
    job = await finish_job(context, play, job_id)

    assert (job["state"], job["error"]["type"]) == ("failed", "left_open")
    assert job["error"]["message"].startswith("nothing was appended for 60 s and nobody closed the job")
    assert await play.states(job_id) == {"succeeded": 2}

    await play.order(jobs.retry_job, job_id)
    await finish.step(context)
    await close(play, job_id)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"


async def test_the_time_in_which_a_job_was_paused_does_not_count(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    await play.order(jobs.pause_job, job_id)
    await forget(play, job_id)
    await play.order(jobs.resume_job, job_id)
    await finish.step(context)
    assert (await play.job(job_id))["state"] == "running"


async def test_a_second_stage_works_on_what_has_come_so_far(context: Context, play: Play) -> None:
    job_id = await play.submit(input=STREAM, stages=2)
    await append(play, job_id, 0, [1, 2])
    await play.run_all(job_id, stages=2)
    await append(play, job_id, 1, [3])
    await close(play, job_id)
    await play.run_all(job_id)
    await finish.step(context)
    await play.run_all(job_id, stages=2)

    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await play.states(job_id, 1) == {"succeeded": 3}


async def test_other_jobs_take_no_items(play: Play) -> None:
    job_id = await play.submit()
    with pytest.raises(Conflict, match="has all its items already"):
        await append(play, job_id, 0, [1])
    with pytest.raises(Conflict, match="has all its items already"):
        await close(play, job_id)
    await assert_invariants(play.database, job_id)


async def test_items_are_cancelled_one_by_one_wherever_they_are(context: Context, play: Play) -> None:
    job_id, worker_id = await play.submit(input=STREAM), await play.register()
    await append(play, job_id, 0, list(range(12)))
    running = await play.run(worker_id, job_id, tasks=4, bundle=2)
    queued = await play.dispatch(job_id, tasks=4, bundle=4)
    await play.complete(worker_id, finished(running[2]))

    for _ in range(2):
        assert await cancel(play, job_id, 0, 2, 5, 8) == [0, 5, 8]
        assert await play.states(job_id) == {"cancelled": 3, "succeeded": 1, "running": 2, "ready": 6}
        await assert_invariants(play.database, job_id)
    answer = await workers.heartbeat(play.database, worker_id, 0)
    assert answer.cancelled == {running[0].bundle_id: {0}}
    assert await play.claim(worker_id, queued) == []
    assert await play.complete(worker_id, finished(running[0])) == 0

    await play.complete(worker_id, finished(running[1]), finished(running[3]), done=running)
    await play.run_all(job_id)
    await close(play, job_id)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await play.states(job_id) == {"cancelled": 3, "succeeded": 9}
    assert await cancel(play, job_id, 0, 1) == [0]
    assert await play.outcomes(job_id) == {"cancelled": 3, "succeeded": 9}


async def test_both_attempts_of_an_item_that_has_a_backup_are_cancelled(play: Play) -> None:
    job_id = await play.submit(input=STREAM)
    await append(play, job_id, 0, ["a"])
    first, task, second, backup = await play.race(job_id)
    assert await cancel(play, job_id, 0) == [0]
    await assert_invariants(play.database, job_id)
    assert await play.complete(first, finished(task)) == await play.complete(second, finished(backup)) == 0
    assert await play.outcomes(job_id) == {"cancelled": 2}
    for worker_id, lease in ((first, task), (second, backup)):
        answer = await workers.heartbeat(play.database, worker_id, 0)
        assert answer.cancelled == {lease.bundle_id: {0}}


async def test_an_item_that_is_claimed_meanwhile_is_cancelled_all_the_same(play: Play, database_url: str) -> None:
    job_id, worker_id = await play.submit(input=STREAM), await play.register()
    await append(play, job_id, 0, ["a", "b"])
    messages = await play.dispatch(job_id)
    claiming = await asyncpg.connect(database_url)
    transaction = claiming.transaction()
    await transaction.start()
    await claiming.execute("SELECT FROM bundles FOR UPDATE")
    await claiming.execute(
        "UPDATE bundles SET worker_id = $1, claimed_at = now() WHERE bundle_id = $2", worker_id, messages[0].bundle_id
    )
    await claiming.execute(
        "UPDATE tasks SET state = 'running', attempt = 1, worker_id = $1, started_at = now() WHERE job_id = $2",
        worker_id,
        job_id,
    )
    await claiming.execute("UPDATE stage_counters SET queued = 0, running = 2 WHERE job_id = $1", job_id)
    cancelling = asyncio.create_task(cancel(play, job_id, 1))
    await until_blocked(play.database)
    await transaction.commit()
    await claiming.close()

    assert await cancelling == [1]
    assert await play.states(job_id) == {"running": 1, "cancelled": 1}
    await assert_invariants(play.database, job_id)
    assert (await workers.heartbeat(play.database, worker_id, 0)).cancelled == {messages[0].bundle_id: {1}}


async def test_what_can_not_be_cancelled(play: Play) -> None:
    job_id, other = await play.submit(input=STREAM), await play.submit()
    await append(play, job_id, 0, ["a"])
    with pytest.raises(NotFound, match="no item 1: it has 1 so far"):
        await cancel(play, job_id, 0, 1)
    with pytest.raises(Conflict, match="only of a job whose input is of type stream"):
        await cancel(play, other, 0)
    with pytest.raises(NotFound):
        await cancel(play, new_id(), 0)
    assert await play.states(job_id) == {"ready": 1}
