"""Jobs whose items come while they run: tasks are made as items come, and the job ends when it was closed."""

from typing import Any
from uuid import UUID

import pytest

from services.engine import jobs, open_jobs
from services.engine.errors import Conflict
from services.scheduler.loop import Context
from services.scheduler.loops import finish, plan
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import finish_job
from tests.invariants import assert_invariants

STREAM = {"type": "stream", "idle_seconds": 60}


async def append(play: Play, job_id: UUID, chunk: int, items: list[Any], ready_max: int = 100) -> open_jobs.Appended:
    async with play.database.acquire() as connection, connection.transaction():
        return await open_jobs.append_items(connection, job_id, chunk, items, ready_max)


async def close(play: Play, job_id: UUID) -> None:
    async with play.database.acquire() as connection, connection.transaction():
        await open_jobs.close_job(connection, job_id)


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
