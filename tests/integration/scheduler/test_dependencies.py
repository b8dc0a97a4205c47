"""Jobs that wait for other jobs: each starts, fails or is skipped once, whoever dies or decides at the same time."""

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from services.contract.task_input import Index
from services.engine import dependencies, jobs, retries
from services.engine.errors import Conflict, SpecError
from services.engine.places import Reader
from services.engine.retries import RetryOrder
from services.engine.spec import JobSpec
from services.engine.submission import submit_job
from services.inputs.spec import RangeInput
from services.platform.database import JOBS_CHANNEL, Connection, new_id
from services.scheduler.loop import Context
from services.scheduler.loops import clock, finish, follow, look, plan
from tests.integration.engine.play import Play, finished, hearing, until_blocked
from tests.integration.scheduler.conftest import drive, finish_job
from tests.invariants import assert_invariants


def after(*job_ids: UUID, condition: str = "succeeded", **changes: Any) -> dict[str, Any]:
    return {"after": [{"job_id": str(job_id), "condition": condition} for job_id in job_ids], **changes}


async def end(play: Play, job_id: UUID, state: str = "succeeded", connection: Connection | None = None) -> None:
    """A scheduler ends the job."""
    if connection is None:
        async with play.database.acquire() as own:
            await end(play, job_id, state, own)
        return
    source = {"succeeded": "running", "failed": "failing", "cancelled": "cancelling"}[state]
    await connection.execute("UPDATE jobs SET state = $2 WHERE job_id = $1", job_id, source)
    assert await jobs.end_job(connection, job_id, source=source, target=state, settings=play.settings)


async def state(play: Play, job_id: UUID) -> str:
    return str((await play.job(job_id))["state"])


async def test_a_job_starts_when_the_last_of_those_before_it_has_succeeded(context: Context, play: Play) -> None:
    first, second = await play.submit(), await play.submit()
    job_id = await play.submit(**after(first, second))
    assert (await state(play, job_id), (await play.job(job_id))["run_at"]) == ("scheduled", None)

    await end(play, second)
    assert not await clock.step(context)
    assert await state(play, job_id) == "scheduled"
    await end(play, first)
    await clock.step(context)

    assert (await state(play, job_id), (await play.stage(job_id))["state"]) == ("running", "running")
    assert (await play.job(job_id))["started_at"] is not None


async def test_the_end_of_a_job_wakes_schedulers_only_if_another_waits_for_it(play: Play) -> None:
    alone, first = await play.submit(), await play.submit()
    await play.submit(**after(first))
    async with hearing(play.database, JOBS_CHANNEL) as heard:
        await end(play, alone)
        await play.database.fetchval("SELECT 1")
        assert not heard.is_set()
        await end(play, first)
        await heard.wait()


async def test_a_quiet_grid_looks_at_an_end_of_which_no_scheduler_heard(context: Context, play: Play) -> None:
    first = await play.submit()
    await play.submit(**after(first))
    await end(play, first)
    context.quiet.begin(60)
    context.quiet.is_heard = True
    await look.step(context)
    assert not context.quiet.is_on


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
async def test_a_job_fails_if_one_before_it_does_not_succeed(context: Context, play: Play, ended: str) -> None:
    first, second = await play.submit(), await play.submit()
    job_id = await play.submit(**after(first, second))
    await end(play, first, ended)
    await clock.step(context)

    job = await finish_job(context, play, job_id)
    assert (job["state"], job["error"]["type"], job["error"]["jobs"]) == ("failed", "predecessor_failed", [str(first)])
    assert str(first) in job["error"]["message"]
    assert (await play.stage(job_id))["state"] == "cancelled"


async def test_a_job_is_skipped_instead_if_it_says_so_and_those_after_it_are_told(context: Context, play: Play) -> None:
    first = await play.submit()
    skipped = await play.submit(**after(first, after_failure="skip"))
    last = await play.submit(**after(skipped, condition="any"))
    await end(play, first, "failed")
    await clock.step(context)

    job = await finish_job(context, play, skipped)
    assert (job["state"], job["error"]["type"]) == ("cancelled", "skipped")
    await clock.step(context)
    assert await state(play, last) == "running"


@pytest.mark.parametrize("ended", ["succeeded", "failed", "cancelled"])
async def test_a_job_that_wants_any_end_starts_after_any(context: Context, play: Play, ended: str) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first, condition="any"))
    await end(play, first, ended)
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_a_job_starts_at_once_if_all_before_it_have_ended(play: Play) -> None:
    first = await play.submit()
    await end(play, first)
    assert await state(play, await play.submit(**after(first))) == "running"


async def test_a_job_fails_at_once_if_one_before_it_has_failed(context: Context, play: Play) -> None:
    first = await play.submit()
    await end(play, first, "failed")
    job_id = await play.submit(**after(first))
    assert (await finish_job(context, play, job_id))["error"]["type"] == "predecessor_failed"


async def test_a_job_waits_for_its_time_too(context: Context, play: Play) -> None:
    first = await play.submit()
    time = datetime(2099, 1, 1, tzinfo=UTC)
    job_id = await play.submit(**after(first, run_at=time))
    assert (await play.job(job_id))["run_at"] is None
    await end(play, first)
    await clock.step(context)
    job = await play.job(job_id)
    assert (job["state"], job["run_at"], job["started_at"]) == ("scheduled", time, None)


async def test_a_time_that_passed_while_it_waited_holds_up_nothing(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first, run_at=datetime(2020, 1, 1, tzinfo=UTC)))
    await clock.step(context)
    assert await state(play, job_id) == "scheduled"
    await end(play, first)
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_a_job_that_has_started_is_planned_and_runs(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first, input={"type": "range", "count": 3}))
    await end(play, first)

    async def planned() -> bool:
        return bool((await play.stage(job_id))["planned"])

    await drive(context, clock.step, plan.step, until=planned)
    await play.run_all(job_id)
    assert await play.states(job_id) == {"succeeded": 3}


async def test_an_end_while_the_job_is_being_submitted_is_not_missed(play: Play) -> None:
    """Whichever commits first: the job that is submitted holds the others until it has recorded that it waits."""
    first = await play.submit()
    async with play.database.acquire() as submitting, submitting.transaction():
        job_id = await jobs_after(play, submitting, first)
        ending = asyncio.create_task(end(play, first))
        await until_blocked(play.database)
    await ending
    assert await news(play) == [job_id]

    second = await play.submit()
    async with play.database.acquire() as ends, ends.transaction():
        await end(play, second, connection=ends)
        submitting_late = asyncio.create_task(play.submit(**after(second)))
        await until_blocked(play.database)
    assert await state(play, await submitting_late) == "running"


async def jobs_after(play: Play, connection: Connection, *job_ids: UUID) -> UUID:
    job = {"input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}], **after(*job_ids)}
    return await submit_job(connection, JobSpec.model_validate(job), settings=play.settings)


async def news(play: Play) -> list[UUID]:
    async with play.database.acquire() as connection:
        return await dependencies.find_news(connection, 100)


async def test_two_ends_at_once_are_both_counted(context: Context, play: Play) -> None:
    """Neither sees the other's, which has not been committed: the look that comes later sees both."""
    first, second = await play.submit(), await play.submit()
    job_id = await play.submit(**after(first, second))
    async with play.database.acquire() as one, play.database.acquire() as two, one.transaction(), two.transaction():
        await end(play, first, connection=one)
        await end(play, second, connection=two)
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_an_end_that_comes_while_a_scheduler_decides_is_looked_at_again(context: Context, play: Play) -> None:
    first, second = await play.submit(), await play.submit()
    job_id = await play.submit(**after(first, second))
    await end(play, first)
    async with play.database.acquire() as deciding, deciding.transaction():
        await dependencies.settle(deciding, job_id)
        await end(play, second)
    assert await state(play, job_id) == "scheduled"
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_a_scheduler_that_dies_before_it_commits_leaves_all_to_the_next(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first))
    await end(play, first)
    with pytest.raises(ConnectionError):
        async with play.database.acquire() as deciding, deciding.transaction():
            await dependencies.settle(deciding, job_id)
            raise ConnectionError
    assert await state(play, job_id) == "scheduled"
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_two_schedulers_start_a_job_once(context: Context, other: Context, play: Play) -> None:
    first = await play.submit()
    waiting = [await play.submit(**after(first)) for _ in range(20)]
    await end(play, first)
    await asyncio.gather(clock.step(context), clock.step(other))
    assert {await state(play, job_id) for job_id in waiting} == {"running"}
    assert await news(play) == []


async def test_a_job_that_was_cancelled_while_it_waited_stays_so(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first))
    await play.order(jobs.cancel_job, job_id)
    await end(play, first)
    await clock.step(context)
    assert (await finish_job(context, play, job_id))["state"] == "cancelled"
    assert await news(play) == []


async def test_a_retried_job_waits_again_for_what_has_not_ended(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first))
    await play.order(jobs.cancel_job, job_id)
    await finish_job(context, play, job_id)
    await play.order(jobs.retry_job, job_id)
    job = await play.job(job_id)
    assert (job["state"], job["started_at"], job["error"]) == ("scheduled", None, None)
    await end(play, first)
    await clock.step(context)
    assert (await state(play, job_id), (await play.stage(job_id))["state"]) == ("running", "running")


async def test_a_job_whose_predecessor_failed_is_retried_after_that_one(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first))
    await end(play, first, "failed")
    await clock.step(context)
    await finish_job(context, play, job_id)
    with pytest.raises(Conflict, match=f"job {first}, which has failed: retry that one first"):
        await play.order(jobs.retry_job, job_id)
    assert await state(play, job_id) == "failed"

    await play.order(jobs.retry_job, first)
    await play.order(jobs.retry_job, job_id)
    assert await state(play, job_id) == "scheduled"
    await end(play, first)
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_a_retry_of_a_job_that_ran_does_not_wait_again(context: Context, play: Play) -> None:
    first = await play.submit()
    job_id = await play.submit(**after(first))
    await end(play, first)
    await clock.step(context)
    await end(play, job_id, "failed")
    await play.order(jobs.retry_job, job_id)
    assert await state(play, job_id) == "running"


async def run_again(play: Play, job_id: UUID, **order: Any) -> None:
    """A user retries a job, which may have succeeded."""
    async with play.database.acquire() as connection:
        await retries.retry_job(connection, job_id, RetryOrder(**order), play.settings, Reader())


async def test_a_retry_of_a_job_that_ran_waits_for_one_before_it_that_runs_again(context: Context, play: Play) -> None:
    first, second = await play.submit(), await play.submit()
    job_id = await play.submit(**after(first, second, condition="any"))
    for one in (first, second):
        await end(play, one)
    await clock.step(context)
    await end(play, job_id, "failed")
    await run_again(play, first, stage=0)
    await play.database.execute("DELETE FROM jobs WHERE job_id = $1", second)

    await play.order(jobs.retry_job, job_id)

    assert await state(play, job_id) == "scheduled"
    await clock.step(context)
    assert await state(play, job_id) == "scheduled"
    await end(play, first)
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_a_job_that_is_not_there_or_goes_is_refused(play: Play) -> None:
    with pytest.raises(SpecError, match=r"after\.0\.job_id: .*there is no such job, or it was deleted"):
        await play.submit(**after(new_id()))
    first = await play.submit()
    await end(play, first)
    await play.database.execute("UPDATE jobs SET deleted_at = now() WHERE job_id = $1", first)
    with pytest.raises(SpecError, match=r"after\.0\.job_id: .*is being deleted"):
        await play.submit(**after(first))


async def test_what_a_deleted_job_came_to_is_kept_for_those_that_still_wait(context: Context, play: Play) -> None:
    first, second = await play.submit(), await play.submit()
    job_id = await play.submit(**after(first, second))
    await end(play, first)
    await play.database.execute("DELETE FROM jobs WHERE job_id = $1", first)
    await end(play, second)
    await clock.step(context)
    assert await state(play, job_id) == "running"


async def test_jobs_that_wait_cost_a_look_nothing(context: Context, play: Play) -> None:
    """A look reads the ends that nobody has seen; an end finds those who wait for it: neither reads all who wait."""
    first = await play.submit()
    await play.submit(**after(first))
    await play.database.execute(
        "INSERT INTO jobs (job_id, name, spec, state) "
        "SELECT gen_random_uuid(), 'waits', '{}', 'scheduled' FROM generate_series(1, 5000)"
    )
    await play.database.execute(
        "INSERT INTO job_dependencies SELECT job_id, gen_random_uuid(), 'any' FROM jobs WHERE name = 'waits'"
    )
    await play.database.execute("ANALYZE job_dependencies")
    looks = "SELECT FROM job_dependencies WHERE predecessor_id = $1 AND ended IS NULL"
    async with play.database.acquire() as connection:
        for statement, argument, index in (
            (dependencies._NEWS, 100, "job_dependencies_news"),
            (looks, first, "job_dependencies_waiting"),
        ):
            [plan] = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", argument)
            scans = [node for node in _nodes(plan["Plan"]) if node.get("Index Name")]
            assert [node["Index Name"] for node in scans] == [index]
    assert not await clock.step(context)


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]


# By index.


async def arrays(play: Play, count: int = 4, **changes: Any) -> tuple[UUID, UUID]:
    """An array that runs, and one whose tasks follow it."""
    array = {"type": "range", "count": count}
    first = await play.submit(input=array, stages=changes.pop("stages", [{"processor": "noop"}]))
    await play.plan(first, count)
    follows = {"after": [{"job_id": str(first), "by_index": True, **changes.pop("when", {})}]}
    return first, await play.submit(**{"input": array, **follows, **changes})


async def made(play: Play, job_id: UUID) -> list[int]:
    rows = await play.database.fetch("SELECT index FROM tasks WHERE job_id = $1 AND stage = 0 ORDER BY index", job_id)
    return [row["index"] for row in rows]


async def test_each_task_starts_when_the_one_of_its_index_has_succeeded(context: Context, play: Play) -> None:
    first, job_id = await arrays(play)
    assert (await state(play, job_id), await made(play, job_id)) == ("running", [])
    await follow.step(context)
    assert await made(play, job_id) == []

    worker_id = await play.register()
    tasks = {task.index: task for task in await play.run(worker_id, first)}
    await play.complete(worker_id, finished(tasks[2]), finished(tasks[0]))
    await follow.step(context)
    assert await made(play, job_id) == [0, 2]
    [one, two] = await play.run(worker_id, job_id)
    assert one.input == two.input == tasks[0].input
    await play.succeed(worker_id, [one, two])
    await finish.step(context)
    assert (await play.stage(job_id))["state"] == "running"

    await play.complete(worker_id, finished(tasks[1]), finished(tasks[3]), done=list(tasks.values()))
    await follow.step(context)
    await play.succeed(worker_id, await play.run(worker_id, job_id))
    await finish.step(context)
    assert (await play.stage(job_id))["state"] == "merging"
    assert await play.states(job_id) == {"succeeded": 4}
    assert await following(play) == []
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("numbers", [{"values": [7, 3, 40, 5]}, {"start": 10, "stop": 50, "step": 10}])
async def test_each_task_that_follows_has_the_number_of_its_own_index(
    context: Context, play: Play, numbers: dict[str, Any]
) -> None:
    array = {"type": "range", **numbers}
    first, job_id = await arrays(play, input=array)
    worker_id = await play.register()
    tasks = {task.index: task for task in await play.run(worker_id, first)}
    await play.complete(worker_id, finished(tasks[1]), finished(tasks[3]))
    await follow.step(context)
    expected = RangeInput.model_validate(array).numbers
    assert {task.index: task.input for task in await play.run(worker_id, job_id)} == {
        index: Index(4, expected[index]) for index in (1, 3)
    }


async def following(play: Play) -> list[UUID]:
    async with play.database.acquire() as connection:
        return await dependencies.find_following(connection, 100)


async def test_a_look_reads_tasks_only_when_some_have_ended(context: Context, play: Play) -> None:
    first, job_id = await arrays(play)
    assert await following(play) == []
    worker_id = await play.register()
    [task, *_] = await play.run(worker_id, first)
    await play.complete(worker_id, finished(task))
    assert await following(play) == [job_id]
    await follow.step(context)
    assert await following(play) == []


async def test_two_schedulers_make_each_task_once(context: Context, other: Context, play: Play) -> None:
    first, job_id = await arrays(play, 50)
    await play.run_all(first)
    await asyncio.gather(follow.step(context), follow.step(other))
    assert await made(play, job_id) == list(range(50))
    await assert_invariants(play.database, job_id)


async def test_a_task_waits_for_its_index_of_all_jobs(context: Context, play: Play) -> None:
    array = {"type": "range", "count": 3}
    before = [await play.submit(input=array) for _ in range(2)]
    worker_id = await play.register()
    tasks = []
    for each in before:
        await play.plan(each, 3)
        tasks.append(await play.run(worker_id, each))
    job_id = await play.submit(input=array, after=[f"{each}:index" for each in before])
    await play.complete(worker_id, finished(tasks[0][0]), finished(tasks[0][1]), finished(tasks[1][1]))
    await follow.step(context)
    assert await made(play, job_id) == [1]


async def test_if_the_job_before_fails_so_does_the_one_that_follows(context: Context, play: Play) -> None:
    first, job_id = await arrays(play)
    worker_id = await play.register()
    tasks = await play.run(worker_id, first)
    await play.complete(worker_id, finished(tasks[1]))
    await follow.step(context)
    await play.run(worker_id, job_id)
    await end(play, first, "failed")
    await clock.step(context)
    job = await finish_job(context, play, job_id)
    assert (job["state"], job["error"]["type"]) == ("failed", "predecessor_failed")
    assert await play.states(job_id) == {"cancelled": 1}
    await follow.step(context)
    assert await following(play) == []

    await play.order(jobs.retry_job, first)
    await play.order(jobs.retry_job, job_id)
    assert await state(play, job_id) == "running"
    await play.complete(worker_id, finished(tasks[0]))
    await follow.step(context)
    assert 0 in await made(play, job_id)


@pytest.mark.parametrize(("rule", "ended", "error"), [
    ({}, "failed", "predecessor_failed"),
    ({"after_failure": "skip"}, "cancelled", "skipped"),
])  # fmt: skip
async def test_a_tolerated_failure_is_none_for_the_task_that_follows(
    context: Context, play: Play, rule: dict[str, Any], ended: str, error: str
) -> None:
    first, job_id = await arrays(play, stages=[{"processor": "noop", "tolerated_failures": 1}], **rule)
    worker_id = await play.register()
    tasks = await play.run(worker_id, first)
    await play.complete(worker_id, finished(tasks[2], "failed", retryable=False), *map(finished, tasks[:2]))
    await follow.step(context)
    assert await made(play, job_id) == [0, 1]
    await play.complete(worker_id, finished(tasks[3]), done=tasks)
    await end(play, first)
    for step in (clock.step, follow.step):
        await step(context)
    job = await finish_job(context, play, job_id)
    assert (job["state"], job["error"]["type"]) == (ended, error)
    assert f"task 2 of job {first} did not succeed" in job["error"]["message"]


async def test_any_end_of_the_task_before_will_do_even_of_one_that_never_was(context: Context, play: Play) -> None:
    first, job_id = await arrays(play, when={"condition": "any"})
    worker_id = await play.register()
    tasks = await play.run(worker_id, first)
    await play.complete(worker_id, finished(tasks[3], "failed", retryable=False))
    await follow.step(context)
    assert await made(play, job_id) == [3]
    await end(play, first, "failed")
    for step in (clock.step, follow.step):
        await step(context)
    assert (await state(play, job_id), await made(play, job_id)) == ("running", [0, 1, 2, 3])


async def test_a_retried_job_makes_what_became_due_meanwhile(context: Context, play: Play) -> None:
    first, job_id = await arrays(play)
    worker_id = await play.register()
    tasks = await play.run(worker_id, first)
    await play.order(jobs.cancel_job, job_id)
    await finish_job(context, play, job_id)
    await play.complete(worker_id, finished(tasks[0]))
    await follow.step(context)
    assert await made(play, job_id) == []
    await play.order(jobs.retry_job, job_id)
    await follow.step(context)
    assert await made(play, job_id) == [0]


async def test_a_task_is_not_retried_before_the_one_that_it_follows_has_run_again(context: Context, play: Play) -> None:
    first, job_id = await arrays(play)
    worker_id = await play.register()
    await play.succeed(worker_id, await play.run(worker_id, first))
    await end(play, first)
    await follow.step(context)
    tasks = {task.index: task for task in await play.run(worker_id, job_id)}
    await play.complete(
        worker_id,
        *(finished(task) for index, task in tasks.items() if index != 2),
        finished(tasks[2], "failed", retryable=False),
        done=list(tasks.values()),
    )
    assert (await finish_job(context, play, job_id))["state"] == "failed"
    await run_again(play, first, stage=0, tasks=[1, 2])

    with pytest.raises(Conflict, match=f"task 2 of this job follows that of job {first}, which is yet to run again"):
        await play.order(jobs.retry_job, job_id)

    again = {task.index: task for task in await play.run(worker_id, first)}
    await play.complete(worker_id, finished(again[2]))
    await play.order(jobs.retry_job, job_id)
    assert await play.states(job_id) == {"succeeded": 3, "ready": 1}
    await follow.step(context)
    assert await following(play) == []


async def test_what_can_not_follow_by_index_is_refused(play: Play) -> None:
    first = await play.submit(input={"type": "range", "count": 4})
    index = {"after": [f"{first}:index"]}
    with pytest.raises(SpecError, match=r"after\.0\.by_index: .* has 4 tasks, and this job has 3: both must be arrays"):
        await play.submit(input={"type": "range", "count": 3}, **index)
    with pytest.raises(ValidationError, match="only an array waits for another one by_index"):
        await play.submit(input={"type": "items", "items": [1, 2, 3, 4]}, **index)
    with pytest.raises(ValidationError, match="at most 10,000 tasks"):
        await play.submit(input={"type": "range", "count": 10_001}, **index)
