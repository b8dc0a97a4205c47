"""Stages and jobs end when their tasks have, once, and say why if they failed."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from services.engine import jobs
from services.engine.spec import JobSpec
from services.platform.database import new_id
from services.scheduler.loop import Context
from services.scheduler.loops import finish
from tests.integration.engine.play import Order, Play, finished
from tests.integration.scheduler.conftest import finish_job
from tests.invariants import assert_invariants


async def states(play: Play, job_id: UUID) -> list[str]:
    rows = await play.database.fetch("SELECT state FROM stages WHERE job_id = $1 ORDER BY stage", job_id)
    return [row["state"] for row in rows]


async def test_a_stage_hands_over_when_its_last_task_has_ended(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "tolerated_failures": 2}, {"processor": "noop"}])
    await play.plan(job_id, 4)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    await play.complete(worker_id, *map(finished, tasks[:2]), finished(tasks[2], "failed", retryable=False))
    assert await finish.step(context)
    assert await states(play, job_id) == ["running", "running"]

    await play.complete(worker_id, finished(tasks[3]), done=tasks)
    await finish.step(context)

    assert await states(play, job_id) == ["succeeded", "running"]
    second = await play.stage(job_id, 1)
    assert (second["planned"], second["task_count"]) == (True, 3)
    await play.succeed(worker_id, await play.run(worker_id, job_id, 1))
    await finish.step(context)
    assert await states(play, job_id) == ["succeeded", "merging"]
    assert not await finish.step(context)
    await assert_invariants(play.database, job_id)


async def test_a_stage_that_is_still_being_planned_is_not_over(context: Context, play: Play) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2, planned=False)
    await play.run_all(job_id)
    await finish.step(context)
    assert await states(play, job_id) == ["running"]

    await play.plan(job_id, 1, first=2)
    await finish.step(context)
    assert await states(play, job_id) == ["running"]

    await play.run_all(job_id)
    await finish.step(context)
    assert await states(play, job_id) == ["merging"]


async def test_an_empty_input_goes_through_all_stages(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=3)
    await play.plan(job_id, 0)

    for _ in range(3):
        await finish.step(context)

    assert await states(play, job_id) == ["succeeded", "succeeded", "merging"]


@pytest.mark.parametrize(("tolerated", "failed"), [(0, "1 task failed"), (1, "2 tasks failed")])
async def test_one_failure_too_many_fails_the_job_and_names_the_first(
    context: Context, play: Play, tolerated: int, failed: str
) -> None:
    job_id = await play.submit(
        stages=[{"name": "clean", "processor": "noop", "tolerated_failures": tolerated}, {"processor": "noop"}]
    )
    await play.plan(job_id, 6)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, tasks=5)
    await play.complete(worker_id, finished(tasks[0]))
    failures = [finished(task, "failed", retryable=False) for task in (tasks[3], tasks[1])]
    await play.complete(worker_id, *failures[: tolerated + 1])
    await play.run(worker_id, job_id, 1)

    job = await finish_job(context, play, job_id)

    assert job["state"] == "failed"
    first = 1 if tolerated else 3
    assert job["error"] == {
        "type": "stage_failed",
        "stage": 0,
        "message": f"stage 'clean': {failed}, {tolerated} tolerated; the first, task {first}: task {first} broke",
    }
    assert await states(play, job_id) == ["failed", "cancelled"]
    assert await play.states(job_id, 1) == {"cancelled": 1}
    assert (await play.states(job_id))["cancelled"] == 4 - tolerated
    assert (await play.database.fetchval("SELECT count(*) FROM attempts WHERE outcome = 'cancelled'")) == 4 - tolerated


async def test_a_job_whose_failures_are_all_tolerated_goes_on(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "tolerated_failures": 2}, {"processor": "noop"}])
    await play.plan(job_id, 2)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    await play.complete(worker_id, *(finished(task, "failed", retryable=False) for task in tasks), done=tasks)

    await finish.step(context)
    await finish.step(context)

    assert await states(play, job_id) == ["succeeded", "merging"]
    assert (await play.stage(job_id, 1))["task_count"] == 0


async def test_failures_in_percent_are_counted_when_all_tasks_are_known(context: Context, play: Play) -> None:
    stage = {"name": "clean", "processor": "noop", "tolerated_failures": "5%"}
    job_id = await play.submit(stages=[stage])
    await play.plan(job_id, 20, planned=False)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    await play.complete(worker_id, *(finished(task, "failed", retryable=False) for task in tasks[:2]))
    await finish.step(context)
    assert await states(play, job_id) == ["running"]  # two of twenty would be too many, but more tasks may come

    await play.plan(job_id, 39, first=20)
    await finish.step(context)
    assert await states(play, job_id) == ["running"]  # 5% of 59, rounded down

    await play.complete(worker_id, finished(tasks[2], "failed", retryable=False))
    job = await finish_job(context, play, job_id)
    assert job["error"]["message"] == (
        "stage 'clean': 3 tasks failed, 2 tolerated (5% of 59); the first, task 0: task 0 broke"
    )
    assert job["spec"]["stages"][0]["tolerated_failures"] == "5%"


@pytest.mark.parametrize(("percent", "tasks", "failures"), [("0.29%", 10_000, 29), ("100%", 3, 3), ("0%", 3, 0)])
async def test_a_stage_with_as_many_failures_as_its_percentage_goes_on(
    context: Context, play: Play, percent: str, tasks: int, failures: int
) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "tolerated_failures": percent}])
    await play.plan(job_id, tasks)
    worker_id = await play.register()
    claimed = await play.run(worker_id, job_id, tasks=failures or 1, bundle=100)
    reports = [finished(task, "failed" if failures else "succeeded", retryable=False) for task in claimed]
    await play.complete(worker_id, *reports, done=claimed)
    await finish.step(context)
    assert (await states(play, job_id))[0] == ("merging" if failures == tasks else "running")


@pytest.mark.parametrize("wrong", ["101%", "5 %", "-1%", "%", "many", -1, 10_000_001, 1.5, True, "5"])
def test_what_is_neither_a_number_nor_a_percentage_is_refused(wrong: object) -> None:
    job = {"input": {"type": "range", "count": 1}, "stages": [{"processor": "noop", "tolerated_failures": wrong}]}
    with pytest.raises(ValidationError, match=r"write a number from 0 to 10,000,000, or a percentage .* such as 5%"):
        JobSpec.model_validate(job)


async def test_torn_records_are_never_tolerated(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"name": "clean", "processor": "noop", "tolerated_failures": 2}])
    await play.plan(job_id, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    torn = {"type": "records_torn", "message": "a quote is open"}
    facts: list[dict[str, Any]] = [{}, {"error": torn}]
    failures = [finished(task, "failed", retryable=False, **fact) for task, fact in zip(tasks, facts, strict=False)]
    await play.complete(worker_id, *failures, finished(tasks[2]), done=tasks)

    job = await finish_job(context, play, job_id)

    assert job["error"] == {"type": "stage_failed", "stage": 0, "message": "stage 'clean': task 1: a quote is open"}


@pytest.mark.parametrize("before", ["scheduled", "running", "paused"])
async def test_a_cancelled_job_ends_with_everything_it_had(context: Context, play: Play, before: str) -> None:
    late = {"run_at": "2099-01-01T00:00:00Z"} if before == "scheduled" else {}
    job_id = await play.submit(stages=2, **late)
    if before != "scheduled":
        await play.plan(job_id, 5)
        worker_id = await play.register()
        tasks = await play.run(worker_id, job_id, tasks=2)
        await play.complete(worker_id, finished(tasks[0]))
        await play.dispatch(job_id, tasks=1)
    if before == "paused":
        await play.order(jobs.pause_job, job_id)
    await play.order(jobs.cancel_job, job_id)

    job = await finish_job(context, play, job_id)

    assert (job["state"], job["error"]) == ("cancelled", None)
    assert job["finished_at"] is not None
    assert await states(play, job_id) == ["cancelled", "cancelled"]


async def test_a_huge_job_is_cancelled_in_portions_and_holds_up_no_other(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finish, "TASKS_MAX", 5)
    monkeypatch.setattr(finish, "ENDING_SECONDS", 0.0)
    huge, small = await play.submit(), await play.submit()
    await play.plan(huge, 50)
    await play.plan(small, 3)
    for job_id in (huge, small):
        await play.order(jobs.cancel_job, job_id)

    assert await finish.step(context)
    assert await finish.step(context)

    assert (await play.job(small))["state"] == "cancelled"
    assert await play.states(huge) == {"cancelled": 5, "ready": 45}
    assert (await finish_job(context, play, huge))["state"] == "cancelled"


async def test_schedulers_ending_one_job_together_end_it_once(context: Context, other: Context, play: Play) -> None:
    await play.database.execute(
        "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'https://example.com', 's')", new_id()
    )
    ending = []
    for _ in range(5):
        job_id = await play.submit()
        await play.plan(job_id, 4)
        worker_id = await play.register()
        tasks = await play.run(worker_id, job_id, tasks=2)
        await play.complete(worker_id, *(finished(task, "failed", retryable=False) for task in tasks), done=tasks)
        ending.append(job_id)

    for _ in range(3):
        await asyncio.gather(*(finish.step(each) for each in (context, other, context, other)))

    for job_id in ending:
        assert (await play.job(job_id))["state"] == "failed"
        await assert_invariants(play.database, job_id)
    assert await play.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 5


async def test_what_a_scheduler_saw_before_a_job_was_retried_does_not_fail_it_again(
    context: Context, other: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, bundle=1)
    await play.complete(worker_id, finished(tasks[0], "failed", retryable=False), done=tasks[:1])
    plain = finish._end_stage

    async def overtaken(*arguments: Any) -> None:
        """This scheduler has seen the failure; while it sleeps, the job fails and its user retries it."""
        monkeypatch.setattr(finish, "_end_stage", plain)
        await finish_job(other, play, job_id)
        await play.order(jobs.retry_job, job_id)
        await plain(*arguments)

    monkeypatch.setattr(finish, "_end_stage", overtaken)
    await finish.step(context)

    assert (await play.job(job_id))["state"] == "running"
    assert await play.states(job_id) == {"ready": 2}
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("order", [jobs.pause_job, jobs.cancel_job])
async def test_an_order_that_comes_before_the_decision_counts(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch, order: Order
) -> None:
    job_id = await play.submit()
    await play.plan(job_id, 2)
    await play.run_all(job_id)
    plain = finish._end_stage

    async def overtaken(*arguments: Any) -> None:
        await play.order(order, job_id)
        await plain(*arguments)

    monkeypatch.setattr(finish, "_end_stage", overtaken)
    await finish.step(context)

    assert await states(play, job_id) != ["merging"]


async def test_jobs_that_a_session_holds_hold_up_the_end_of_no_other(context: Context, play: Play) -> None:
    held, cancelled, free = [await play.submit() for _ in range(3)]
    for job_id in (held, cancelled, free):
        await play.plan(job_id, 1)
        await play.run_all(job_id)
    await play.order(jobs.cancel_job, cancelled)
    async with play.database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM jobs WHERE job_id = ANY($1) FOR UPDATE", [held, cancelled])
        async with asyncio.timeout(10):
            await finish.step(context)
        assert (await play.stage(free))["state"] == "merging"
        assert (await play.stage(held))["state"] == "running"

    await finish.step(context)
    assert (await play.stage(held))["state"] == "merging"
    assert (await play.job(cancelled))["state"] == "cancelled"
