"""Submitting jobs, and every order a user gives: what it does, and when it is refused."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from services.engine import jobs, pools, processors, submission, transitions, workers
from services.engine.errors import Conflict, NotFound, SpecError
from services.engine.spec import JobSpec, ProcessorSpec
from services.platform.database import JOBS_CHANNEL, WEBHOOKS_CHANNEL, new_id
from tests.integration.engine.conftest import Session
from tests.integration.engine.play import Order, Play, add_pool, add_processor, finished, hearing
from tests.invariants import assert_invariants
from tests.until import until

# Submission.


async def test_a_submitted_job_runs_with_the_stages_it_asks_for(play: Play) -> None:
    stages: list[dict[str, Any]] = [
        {
            "processor": "noop",
            "params": {"a": 1},
            "retry": {"max_attempts": 7, "backoff_seconds": 2, "backoff_max_seconds": 9},
            "timeout_seconds": 5,
            "memory_bytes": 1 << 30,
            "tolerated_failures": 2,
            "rejects_max": 4,
        },
        {"name": "second", "processor": "noop@1"},
    ]
    job_id = await play.submit(
        name="nightly", stages=stages, merge={"type": "reduce", "processor": "noop"}, priority=3, share="claims",
        labels={"team": "a"},
    )  # fmt: skip

    job = await play.job(job_id)
    assert (job["name"], job["state"], job["priority"], job["share"]) == ("nightly", "running", 3, "claims")
    assert (job["labels"], job["run_at"]) == ({"team": "a"}, None)
    assert job["started_at"] == job["created_at"]
    first, second, reduce = [await play.stage(job_id, number) for number in range(3)]
    assert [first[name] for name in ("max_attempts", "backoff_seconds", "backoff_max_seconds")] == [7, 2, 9]
    assert [first[name] for name in ("timeout_seconds", "memory_bytes", "rejects_max")] == [5, 1 << 30, 4]
    assert (first["params"], first["tolerated_failures"]) == ({"a": 1}, 2)
    assert [s["name"] for s in (first, second, reduce)] == ["stage-0", "second", "reduce"]
    assert [s["kind"] for s in (first, second, reduce)] == ["map", "map", "reduce"]
    assert [s["chains"] for s in (first, second, reduce)] == [True, False, False]
    assert [s["tasks_from"] for s in (first, second, reduce)] == ["input", "successes", "reduce"]
    assert [s["state"] for s in (first, second, reduce)] == ["running", "running", "waiting"]


async def test_a_job_for_later_is_scheduled_and_none_of_its_stages_runs(play: Play) -> None:
    run_at = datetime.now(UTC) + timedelta(hours=1)

    job_id = await play.submit(run_at=run_at)

    job = await play.job(job_id)
    assert (job["state"], job["run_at"], job["started_at"]) == ("scheduled", run_at, None)
    assert (await play.stage(job_id))["state"] == "waiting"


async def test_a_processor_is_taken_in_its_newest_version_or_the_one_named(play: Play) -> None:
    assert await add_processor(play.database, "noop", builtin="copy") == 2

    job_id = await play.submit(stages=[{"processor": name} for name in ("noop", "noop@1", "noop@2")])

    assert [(await play.stage(job_id, number))["processor_version"] for number in range(3)] == [2, 1, 2]


REDUCE = {"type": "reduce", "processor": "noop"}


@pytest.mark.parametrize(
    ("changes", "field", "value", "fix"),
    [
        ({"stages": [{"processor": "nope"}]}, "stages.0.processor", "nope", r"registered: checked, noop"),
        ({"stages": [{"processor": "noop"}, {"processor": "noop@9"}]}, "stages.1.processor", "noop@9", "registered"),
        ({"stages": [{"processor": "noop", "pool": "gpu"}]}, "stages.0.pool", "gpu", r"pools: default"),
        ({"stages": [{"processor": "checked"}]}, "stages.0.params", {}, "'level' is a required property"),
        ({"stages": [{"processor": "checked", "params": {"level": "x"}}]}, "stages.0.params.level", "x", "integer"),
        ({"stages": [{"processor": "checked", "params": {"level": 1, "b": 2}}]}, "stages.0.params",
         {"level": 1, "b": 2}, "'b' was unexpected"),
        ({"merge": REDUCE | {"processor": "nope"}}, "merge.processor", "nope", "registered"),
        ({"merge": REDUCE | {"processor": "checked"}}, "merge.params", {}, "'level' is a required property"),
        ({"stages": 21}, "stages", 21, "at most 20 stages"),
        ({"input": {"type": "items", "items": list(range(10_001))}}, "input.items", 10_001, "at most 10000 items"),
    ],
)  # fmt: skip
async def test_what_can_not_run_is_refused_with_the_field_the_value_and_the_fix(
    play: Play, changes: dict[str, Any], field: str, value: Any, fix: str
) -> None:
    schema = {"properties": {"level": {"type": "integer"}}, "required": ["level"], "additionalProperties": False}
    await add_processor(play.database, "checked", builtin="noop", params_schema=schema)

    with pytest.raises(SpecError, match=fix) as refused:
        await play.submit(**changes)

    assert (refused.value.field, refused.value.value) == (field, value)
    assert await play.database.fetchval("SELECT count(*) FROM jobs") == 0


async def test_params_nested_deeper_than_their_schema_can_follow_are_refused(play: Play) -> None:
    endless = {"$ref": "#"}
    await add_processor(play.database, "endless", builtin="noop", params_schema=endless)

    with pytest.raises(SpecError, match="nested too deeply"):
        await play.submit(stages=[{"processor": "endless"}])


async def test_one_run_of_a_schedule_gives_one_job(play: Play) -> None:
    schedule_id, run_at = new_id(), datetime.now(UTC)
    spec = JobSpec.model_validate({"input": {"type": "range", "count": 1}, "stages": [{"processor": "noop"}]})

    async def submit(run_at: datetime) -> UUID:
        async with play.database.acquire() as connection, connection.transaction():
            return await submission.submit_job(
                connection, spec, settings=play.settings, schedule_id=schedule_id, run_at=run_at
            )

    job_id = await submit(run_at)
    with pytest.raises(asyncpg.UniqueViolationError):
        await submit(run_at)
    await submit(run_at + timedelta(minutes=1))

    job = await play.job(job_id)
    assert (job["schedule_id"], job["run_at"], job["state"]) == (schedule_id, run_at, "running")


async def test_submission_wakes_the_scheduler(play: Play) -> None:
    async with hearing(play.database, JOBS_CHANNEL) as heard:
        await play.submit()
        await asyncio.wait_for(heard.wait(), 5)


# Processors and pools.


async def test_registering_the_same_again_makes_no_new_version(play: Play) -> None:
    async def register(description: str = "", **spec: Any) -> int:
        async with play.database.acquire() as connection, connection.transaction():
            return await processors.register_processor(connection, "p", ProcessorSpec.model_validate(spec), description)

    assert await register(builtin="noop") == 1
    assert await register(builtin="noop") == 1
    assert await register(builtin="copy") == 2
    assert await register(builtin="copy", description="copies") == 3
    assert await register(builtin="noop") == 4
    versions = await asyncio.gather(*(register(builtin="noop", environment={"N": str(n)}) for n in range(5)))
    assert sorted(versions) == [5, 6, 7, 8, 9]


async def test_registering_a_pool_again_keeps_its_capacity_and_pause(play: Play) -> None:
    async with play.database.acquire() as connection:
        await pools.pause_pool(connection, "default")
    await play.database.execute("UPDATE pools SET capacity_max = 9")

    await add_pool(play.database, "default", queue_url="other", slots=7)

    pool = await play.database.fetchrow("SELECT queue_url, slots, paused, capacity_max FROM pools")
    assert pool is not None
    assert tuple(pool) == ("other", 7, True, 9)


async def test_pausing_a_pool_takes_back_what_is_queued_there_and_nowhere_else(play: Play) -> None:
    await add_pool(play.database, "large")
    job_id = await play.submit()
    await play.plan(job_id, 6)
    running = await play.run(await play.register(), job_id, tasks=1)
    await play.dispatch(job_id, tasks=2)
    await play.dispatch(job_id, tasks=2, pool="large")

    async with play.database.acquire() as connection:
        await pools.pause_pool(connection, "default")
        with pytest.raises(NotFound, match="'small'"):
            await pools.pause_pool(connection, "small")

    assert len(running) == 1
    assert await play.states(job_id) == {"running": 1, "queued": 2, "ready": 3}
    await assert_invariants(play.database, job_id)


async def test_only_a_live_worker_can_be_drained(play: Play) -> None:
    worker_id, lost = await play.register(), await play.register()
    await play.lose(lost)
    async with play.database.acquire() as connection:
        for _ in range(2):
            await workers.drain_worker(connection, worker_id)
        with pytest.raises(Conflict, match=r"lost.*must be active"):
            await workers.drain_worker(connection, lost)
        with pytest.raises(NotFound):
            await workers.drain_worker(connection, new_id())

    assert await play.database.fetchval("SELECT state FROM workers WHERE worker_id = $1", worker_id) == "draining"


# Orders.

ALLOWED: dict[Order, dict[str, str]] = {
    jobs.pause_job: {"running": "paused"},
    jobs.resume_job: {"paused": "running"},
    jobs.cancel_job: {"scheduled": "cancelling", "running": "cancelling", "paused": "cancelling"},
    jobs.retry_job: {"failed": "running", "cancelled": "running"},
}
STATES = ("scheduled", "running", "paused", "cancelling", "failing", "succeeded", "failed", "cancelled")


@pytest.mark.parametrize("order", ALLOWED, ids=lambda order: order.__name__)
async def test_an_order_is_obeyed_in_the_states_that_allow_it_and_refused_in_all_others(
    play: Play, order: Order
) -> None:
    for state in STATES:
        job_id = await play.submit()
        await play.database.execute("UPDATE jobs SET state = $2 WHERE job_id = $1", job_id, state)
        if state in ALLOWED[order]:
            await play.order(order, job_id)
            assert (await play.job(job_id))["state"] == ALLOWED[order][state]
        else:
            with pytest.raises(Conflict, match=rf"that is {state} can't be .*; it must be {'|'.join(ALLOWED[order])}"):
                await play.order(order, job_id)
            assert (await play.job(job_id))["state"] == state
    with pytest.raises(NotFound):
        await play.order(order, new_id())


async def fail(play: Play, job_id: UUID, stage: int) -> None:
    """What the scheduler does when a stage has failed."""
    async with play.database.acquire() as connection:
        assert await jobs.fail_job(connection, job_id, {"type": "stage_failed", "message": "no"}, stage)
        assert await transitions.cancel_tasks(connection, job_id, 1000)
        assert await jobs.end_job(connection, job_id, source="failing", target="failed", settings=play.settings)


async def cancel(play: Play, job_id: UUID) -> None:
    await play.order(jobs.cancel_job, job_id)
    async with play.database.acquire() as connection:
        assert await transitions.cancel_tasks(connection, job_id, 1000)
        assert await jobs.end_job(connection, job_id, source="cancelling", target="cancelled", settings=play.settings)


async def test_retrying_a_failed_job_keeps_what_succeeded_and_allows_all_attempts_again(play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "retry": {"max_attempts": 1}}, {"processor": "noop"}])
    await play.plan(job_id, 6)
    worker_id = await play.register()
    first = await play.run(worker_id, job_id, tasks=4)
    await play.complete(worker_id, *map(finished, first[:2]), finished(first[2], "failed"), done=[])
    second = await play.run(worker_id, job_id, 1, tasks=1)
    await play.succeed(worker_id, second)
    await play.dispatch(job_id, tasks=1)
    await fail(play, job_id, 0)
    await assert_invariants(play.database, job_id)
    assert (await play.job(job_id))["error"]["type"] == "stage_failed"

    await play.order(jobs.retry_job, job_id)

    job = await play.job(job_id)
    assert (job["state"], job["error"], job["finished_at"]) == ("running", None, None)
    assert await play.states(job_id) == {"succeeded": 2, "ready": 4}
    assert await play.states(job_id, 1) == {"succeeded": 1, "ready": 1}
    task = await play.task(job_id, 2)
    assert (task["attempt"], task["failures"], task["losses"], task["error"]) == (1, 0, 0, None)
    await assert_invariants(play.database, job_id)
    await play.run_all(job_id, stages=2)
    assert await play.states(job_id) == await play.states(job_id, 1) == {"succeeded": 6}
    assert await play.complete(worker_id, finished(first[3]), done=first) == 0
    await assert_invariants(play.database, job_id)


async def test_retrying_keeps_the_tolerated_failures_of_a_stage_that_succeeded(play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "tolerated_failures": 1}, {"processor": "noop"}])
    await play.plan(job_id, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    bad = finished(tasks[0], "failed", retryable=False)
    await play.complete(worker_id, bad, *map(finished, tasks[1:]), done=tasks)
    await play.database.execute("UPDATE stages SET state = 'succeeded' WHERE stage = 0")
    await fail(play, job_id, 1)

    await play.order(jobs.retry_job, job_id)

    assert await play.states(job_id) == {"succeeded": 2, "failed": 1}
    assert await play.states(job_id, 1) == {"ready": 2}
    assert [(await play.stage(job_id, number))["state"] for number in (0, 1)] == ["succeeded", "running"]
    await assert_invariants(play.database, job_id)


async def test_retrying_a_cancelled_job_runs_what_was_cancelled(play: Play) -> None:
    job_id = await play.submit(stages=2, merge={"type": "reduce", "processor": "noop"})
    await play.plan(job_id, 4)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, tasks=3, bundle=1)
    await play.succeed(worker_id, tasks[:1])
    await cancel(play, job_id)
    await assert_invariants(play.database, job_id)
    assert await play.complete(worker_id, finished(tasks[1]), done=tasks[1:2]) == 0

    await play.order(jobs.retry_job, job_id)

    assert await play.states(job_id) == {"succeeded": 1, "ready": 3}
    assert await play.states(job_id, 1) == {"ready": 1}
    assert [(await play.stage(job_id, n))["state"] for n in range(3)] == ["running", "running", "waiting"]
    await assert_invariants(play.database, job_id)
    assert await play.complete(worker_id, finished(tasks[2]), done=tasks[2:]) == 0
    await play.run_all(job_id, stages=2)
    assert await play.states(job_id, 1) == {"succeeded": 4}
    await assert_invariants(play.database, job_id)


async def test_a_job_cancelled_before_its_time_runs_at_once_when_retried(play: Play) -> None:
    job_id = await play.submit(run_at=datetime(2099, 1, 1, tzinfo=UTC))
    await cancel(play, job_id)

    await play.order(jobs.retry_job, job_id)

    assert (await play.job(job_id))["started_at"] is not None
    assert (await play.stage(job_id))["state"] == "running"


async def test_a_reduce_that_failed_is_retried_alone(play: Play) -> None:
    job_id = await play.submit(merge={"type": "reduce", "processor": "noop"})
    await play.database.execute("UPDATE stages SET state = 'succeeded' WHERE stage = 0")
    await play.database.execute("UPDATE stages SET state = 'running', planned = true, task_count = 1 WHERE stage = 1")
    async with play.database.acquire() as connection:
        await transitions.plan_tasks(connection, job_id, 1, 0, [{"type": "outputs", "uri": "s3://b/k"}])
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id, 1)
    await play.complete(worker_id, finished(task, "failed", retryable=False), done=[task])
    await fail(play, job_id, 1)

    await play.order(jobs.retry_job, job_id)

    assert [(await play.stage(job_id, n))["state"] for n in (0, 1)] == ["succeeded", "running"]
    assert await play.states(job_id, 1) == {"ready": 1}
    await assert_invariants(play.database, job_id)


# Ends.


async def add_endpoint(play: Play, events: list[str] | None = None, enabled: bool = True) -> UUID:
    endpoint_id = new_id()
    await play.database.execute(
        "INSERT INTO webhook_endpoints (endpoint_id, url, secret, enabled, events) "
        "VALUES ($1, 'https://example.com', 'whsec_c2VjcmV0', $2, $3)",
        endpoint_id,
        enabled,
        events or ["job.succeeded", "job.failed"],
    )
    return endpoint_id


async def test_a_job_ends_once_and_its_webhooks_are_recorded_with_it(play: Play) -> None:
    both = [await add_endpoint(play), await add_endpoint(play)]
    await add_endpoint(play, events=["job.failed"])
    await add_endpoint(play, enabled=False)
    job_id = await play.submit(name="nightly", labels={"team": "a"})

    async def end() -> bool:
        async with play.database.acquire() as connection:
            return await jobs.end_job(
                connection, job_id, source="running", target="succeeded", settings=play.settings,
                result={"manifest": {"uri": "s3://b/manifest.json"}, "files": [{"uri": "s3://b/a"}]},
            )  # fmt: skip

    async with hearing(play.database, WEBHOOKS_CHANNEL) as heard:
        assert sorted(await asyncio.gather(end(), end(), end())) == [False, False, True]
        await asyncio.wait_for(heard.wait(), 5)

    job = await play.job(job_id)
    assert job["state"] == "succeeded"
    deliveries = await play.database.fetch("SELECT * FROM webhook_deliveries")
    assert sorted(row["endpoint_id"] for row in deliveries) == sorted(both)
    for row in deliveries:
        assert (row["event"], row["job_id"], row["state"], row["tries"]) == ("job.succeeded", job_id, "pending", 0)
        assert row["give_up_at"] - row["created_at"] == timedelta(hours=24)
        assert row["payload"]["type"] == "job.succeeded"
        assert row["payload"]["timestamp"] == job["finished_at"].isoformat()
        data = row["payload"]["data"]
        assert (data["job_id"], data["name"], data["state"]) == (str(job_id), "nightly", "succeeded")
        assert (data["labels"], data["results"]) == ({"team": "a"}, {"uri": "s3://b/manifest.json"})
        assert data["files"] == [{"uri": "s3://b/a"}]


async def test_an_end_that_is_rolled_back_leaves_no_webhook(play: Play, session: Session) -> None:
    await add_endpoint(play)
    job_id = await play.submit()
    connection = await session()
    undo = connection.transaction()
    await undo.start()
    assert await jobs.end_job(connection, job_id, source="running", target="succeeded", settings=play.settings)
    await undo.rollback()

    assert (await play.job(job_id))["state"] == "running"
    assert await play.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 0


async def test_a_job_that_fails_says_why_and_ends_every_stage(play: Play) -> None:
    job_id = await play.submit(stages=3)
    await fail(play, job_id, 1)

    job = await play.job(job_id)
    assert (job["state"], job["error"]) == ("failed", {"type": "stage_failed", "message": "no"})
    assert [(await play.stage(job_id, n))["state"] for n in range(3)] == ["cancelled", "failed", "cancelled"]
    async with play.database.acquire() as connection:
        assert not await jobs.fail_job(connection, job_id, {"type": "split_failed", "message": "later"}, 0)
    assert (await play.job(job_id))["error"]["type"] == "stage_failed"


async def test_of_two_schedulers_one_starts_a_due_job(play: Play) -> None:
    due = [await play.submit(run_at=datetime(2020, 1, day, tzinfo=UTC)) for day in range(1, 6)]
    later = await play.submit(run_at=datetime(2099, 1, 1, tzinfo=UTC))

    async def start() -> int:
        async with play.database.acquire() as connection, connection.transaction():
            return await jobs.start_due_jobs(connection, 3)

    started = await asyncio.gather(start(), start())

    async def rest() -> bool:
        return not await start()

    await until(rest)
    assert max(started) <= 3
    for job_id in due:
        assert (await play.job(job_id))["state"] == "running"
        assert (await play.stage(job_id))["state"] == "running"
    assert (await play.job(later))["state"] == "scheduled"
