"""Planning: whatever dies or runs twice between two chunks, each part of the input becomes one task."""

import asyncio
import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from services.api.routes.jobs import load_job
from services.engine import jobs, plans
from services.inputs import ranges
from services.inputs.chunk import Chunk
from services.inputs.range import split as index_range
from services.inputs.split import split_each as plain_split
from services.scheduler import put_off, slots
from services.scheduler.loop import Context
from services.scheduler.loops import plan
from tests.integration.engine.play import Play
from tests.integration.scheduler.conftest import Bucket, drive, end_put_off, finish_job
from tests.invariants import assert_invariants

DATA = b"".join(b"line %d\n" % n for n in range(120))


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PARTS_PER_CHUNK", 4)
    monkeypatch.setattr(index_range, "TASKS_PER_CHUNK", 7)


async def submit_lines(play: Play, bucket: Bucket, **changes: Any) -> UUID:
    uri = await bucket.put("in", DATA)
    return await play.submit(input={"type": "lines", "uri": uri, "part_bytes": 30}, **changes)


async def plan_all(context: Context, play: Play, job_id: UUID) -> None:
    async def planned() -> bool:
        return bool((await play.stage(job_id))["planned"])

    await drive(context, plan.step, until=planned)


async def assert_planned(play: Play, job_id: UUID) -> None:
    """Every byte of DATA is in one task, and the stage knows how many there are."""
    stage = await play.stage(job_id)
    rows = await play.database.fetch("SELECT index, input FROM tasks WHERE job_id = $1 ORDER BY index", job_id)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert b"".join(DATA[row["input"]["start"] : row["input"]["end"]] for row in rows) == DATA
    assert (stage["planned"], stage["task_count"]) == (True, len(rows))
    await assert_invariants(play.database, job_id)


async def test_an_input_is_planned_chunk_by_chunk_and_may_be_dispatched_meanwhile(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await submit_lines(play, bucket)

    assert await plan.step(context)
    assert not (await play.stage(job_id))["planned"]
    first = await play.run(await play.register(), job_id)
    assert len(first) == 4
    await plan_all(context, play, job_id)

    await assert_planned(play, job_id)
    assert (await play.states(job_id))["running"] == 4
    assert not await plan.step(context)


async def test_every_type_of_input_is_planned(context: Context, play: Play, bucket: Bucket) -> None:
    for key in ("in/a", "in/b", "in/c"):
        await bucket.put(key, b"x")
    sources: list[tuple[dict[str, Any], int]] = [
        ({"type": "items", "items": ["a"]}, 1),
        ({"type": "items", "items": list(range(30))}, 30),
        ({"type": "range", "count": 1}, 1),
        ({"type": "range", "count": 22}, 22),
        ({"type": "objects", "prefix": f"s3://{bucket.name}/in/"}, 3),
        ({"type": "lines", "uri": await bucket.put("empty", b"")}, 0),
    ]
    submitted = [(await play.submit(input=source), count) for source, count in sources]

    for job_id, count in submitted:
        await plan_all(context, play, job_id)
        stage = await play.stage(job_id)
        assert (stage["planned"], stage["task_count"]) == (True, count)
        assert sum((await play.states(job_id)).values()) == count
        await assert_invariants(play.database, job_id)


async def test_a_crash_between_any_two_writes_of_a_chunk_loses_and_doubles_nothing(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit_lines(play, bucket)

    class Killed(BaseException):
        pass

    async def die(*_: object) -> None:
        raise Killed

    victims = [(plan, "split_each"), (plans, "plan_tasks"), (plans, "notify_jobs")]
    for module, victim in [*victims, victims[0], victims[2]]:
        with monkeypatch.context() as dying:
            dying.setattr(module, victim, die)
            with pytest.raises(Killed):
                await plan.step(context)
        await plan.step(context)
    await plan_all(context, play, job_id)

    await assert_planned(play, job_id)


async def test_two_schedulers_plan_each_part_once(context: Context, other: Context, play: Play, bucket: Bucket) -> None:
    jobs_of_both = [await submit_lines(play, bucket) for _ in range(3)]
    for job_id in jobs_of_both:
        await asyncio.gather(plan_all(context, play, job_id), plan_all(other, play, job_id))

    for job_id in jobs_of_both:
        await assert_planned(play, job_id)


async def test_a_chunk_that_another_scheduler_has_planned_meanwhile_does_not_count(
    context: Context, other: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit_lines(play, bucket)

    async def overtaken(*arguments: Any) -> Chunk:
        with monkeypatch.context() as undone:
            undone.setattr(plan, "split_each", plain_split)
            await plan.step(other)
        return await plain_split(*arguments)

    monkeypatch.setattr(plan, "split_each", overtaken)
    await plan.step(context)
    monkeypatch.undo()

    assert await play.database.fetchval("SELECT count(*) FROM tasks") == (await play.stage(job_id))["task_count"]
    monkeypatch.setattr(plan, "split_each", plain_split)
    await plan_all(context, play, job_id)
    await assert_planned(play, job_id)


@pytest.mark.parametrize("order", [jobs.pause_job, jobs.cancel_job])
async def test_an_order_in_the_middle_of_a_chunk_stops_the_planning(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, order: Any
) -> None:
    job_id = await submit_lines(play, bucket)

    async def interrupted(*arguments: Any) -> Chunk:
        await play.order(order, job_id)
        return await plain_split(*arguments)

    monkeypatch.setattr(plan, "split_each", interrupted)
    await plan.step(context)

    assert await play.states(job_id) == {}
    assert not await plan.step(context)


async def test_a_paused_jobs_planning_goes_on_where_it_stopped(context: Context, play: Play, bucket: Bucket) -> None:
    job_id = await submit_lines(play, bucket)
    await plan.step(context)
    await play.order(jobs.pause_job, job_id)
    assert not await plan.step(context)

    await play.order(jobs.resume_job, job_id)
    await plan_all(context, play, job_id)

    await assert_planned(play, job_id)


# What can't be split.


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ({"type": "lines", "uri": "s3://{bucket}/nowhere"}, "can't read s3://{bucket}/nowhere: .*Not Found"),
        ({"type": "lines", "uri": "s3://no-such-bucket-here/key"}, "can't read s3://no-such-bucket-here/key"),
        ({"type": "lines", "uri": "s3://not a bucket!/key"}, "can't read s3://not a bucket!/key: S3 has no such names"),
        ({"type": "objects", "prefix": "s3://{bucket}/nowhere/"}, "no object under s3://{bucket}/nowhere/"),
        ({"type": "objects", "prefix": "s3://no-such-bucket-here/"}, "can't read s3://no-such-bucket-here/"),
        ({"type": "parquet", "uri": "s3://{bucket}/nowhere"}, "can't read s3://{bucket}/nowhere"),
        ({"type": "parquet", "uri": "s3://{bucket}/garbage"}, "s3://{bucket}/garbage is not a Parquet file"),
    ],
)
async def test_a_job_whose_input_can_not_be_split_fails_and_says_why_and_the_others_go_on(
    context: Context, play: Play, bucket: Bucket, source: dict[str, Any], why: str
) -> None:
    await bucket.put("garbage", b"x" * 100)
    named = {name: value.replace("{bucket}", bucket.name) for name, value in source.items()}
    bad, good = await play.submit(input=named), await submit_lines(play, bucket)

    await plan.step(context)

    job = await finish_job(context, play, bad)
    assert (job["state"], job["error"]["type"], job["error"]["stage"]) == ("failed", "split_failed", 0)
    assert re.search(why.replace("{bucket}", bucket.name), job["error"]["message"])
    await plan_all(context, play, good)
    await assert_planned(play, good)


async def test_an_input_of_the_next_release_is_left_to_its_schedulers_and_its_fields_are_ignored(
    context: Context, play: Play, bucket: Bucket
) -> None:
    unknown_type, unknown_field = [await submit_lines(play, bucket) for _ in range(2)]
    change = "UPDATE jobs SET spec = jsonb_set(spec, $2::text[], $3) WHERE job_id = $1"
    await play.database.execute(change, unknown_type, ["input", "type"], "quanta")
    await play.database.execute(change, unknown_field, ["input", "field_of_the_next_release"], True)

    await plan_all(context, play, unknown_field)

    await assert_planned(play, unknown_field)
    assert (await play.job(unknown_type))["state"] == "running"
    assert (await play.stage(unknown_type))["put_off_at"] is not None
    await play.database.execute(change, unknown_type, ["input", "type"], "lines")
    await end_put_off(context)
    await plan_all(context, play, unknown_type)
    await assert_planned(play, unknown_type)


async def test_an_object_replaced_while_it_is_split_fails_the_job(context: Context, play: Play, bucket: Bucket) -> None:
    job_id = await submit_lines(play, bucket)
    await plan.step(context)
    await bucket.put("in", DATA + b"more\n")
    await plan.step(context)

    job = await finish_job(context, play, job_id)
    assert "was replaced while it was being split" in job["error"]["message"]
    assert await play.states(job_id) == {"cancelled": 4}


def fail_splits_of(monkeypatch: pytest.MonkeyPatch, part_bytes: int, error: Exception) -> None:
    """Inputs with parts of this size can't be split."""

    async def failing(s3: Any, sources: Any, *arguments: Any) -> Chunk:
        if sources[0].part_bytes == part_bytes:
            raise error
        return await plain_split(s3, sources, *arguments)

    monkeypatch.setattr(plan, "split_each", failing)


PASSING = [
    ClientError({"Error": {"Code": "SlowDown", "Message": ""}}, "GetObject"),
    ClientError({"Error": {"Code": "InternalError", "Message": ""}}, "GetObject"),
    EndpointConnectionError(endpoint_url="http://s3"),
    TimeoutError(),
]


@pytest.mark.parametrize("error", PASSING, ids=repr)
async def test_an_outage_of_s3_fails_no_job_and_holds_up_no_other(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    unlucky, lucky = await submit_lines(play, bucket), await submit_lines(play, bucket)
    await play.database.execute(
        "UPDATE jobs SET spec = jsonb_set(spec, '{input,part_bytes}', '29') WHERE job_id = $1", unlucky
    )
    fail_splits_of(monkeypatch, 29, error)

    await plan_all(context, play, lucky)
    assert not await plan.step(context)  # not again at once
    assert (await play.job(unlucky))["state"] == "running"

    monkeypatch.setattr(plan, "split_each", plain_split)
    await end_put_off(context)
    await plan_all(context, play, unlucky)
    assert (await play.stage(unlucky))["put_off_at"] is None
    await assert_planned(play, lucky)
    await assert_planned(play, unlucky)


async def test_many_jobs_that_are_always_put_off_hold_up_no_other_and_each_gets_its_turn(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_off, "PUT_OFF_SECONDS", 0.0)
    source = {"type": "lines", "uri": await bucket.put("in", DATA), "part_bytes": 29}
    unlucky = [await play.submit(input=source, priority=100) for _ in range(20)]
    fail_splits_of(monkeypatch, 29, PASSING[0])
    for _ in range(3):
        await plan.step(context)
    assert None not in [(await play.stage(job_id))["put_off_at"] for job_id in unlucky]
    lucky = await submit_lines(play, bucket)

    await plan.step(context)

    assert (await play.stage(lucky))["task_count"] == 4
    await plan_all(context, play, lucky)
    await assert_planned(play, lucky)
    assert not any([await play.states(job_id) for job_id in unlucky])


async def test_a_split_that_breaks_in_an_unforeseen_way_fails_its_own_job_only(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlucky, lucky = await submit_lines(play, bucket), await submit_lines(play, bucket)
    await play.database.execute(
        "UPDATE jobs SET spec = jsonb_set(spec, '{input,part_bytes}', '29') WHERE job_id = $1", unlucky
    )
    fail_splits_of(monkeypatch, 29, KeyError("surprise"))

    await plan_all(context, play, lucky)

    assert (await play.job(unlucky))["state"] == "failing"
    assert "surprise" in (await play.job(unlucky))["error"]["message"]
    await assert_planned(play, lucky)


async def test_a_failure_that_another_scheduler_has_overcome_meanwhile_does_not_count(
    context: Context, other: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await submit_lines(play, bucket)

    async def overtaken(*arguments: Any) -> Chunk:
        with monkeypatch.context() as undone:
            undone.setattr(plan, "split_each", plain_split)
            await plan.step(other)
        raise ClientError({"Error": {"Code": "AccessDenied", "Message": ""}}, "GetObject")

    with monkeypatch.context() as failing:
        failing.setattr(plan, "split_each", overtaken)
        await plan.step(context)

    assert (await play.job(job_id))["state"] == "running"
    await plan_all(context, play, job_id)
    await assert_planned(play, job_id)


async def test_a_retried_job_is_split_from_where_it_failed(context: Context, play: Play, bucket: Bucket) -> None:
    uri = f"s3://{bucket.name}/late"
    job_id = await play.submit(input={"type": "lines", "uri": uri, "part_bytes": 30})
    await plan.step(context)
    assert (await finish_job(context, play, job_id))["error"]["type"] == "split_failed"
    await bucket.put("late", DATA)

    await play.order(jobs.retry_job, job_id)

    await plan_all(context, play, job_id)
    await assert_planned(play, job_id)


# Planning ahead is bounded.


def bounded(context: Context, ready_tasks_max: int) -> Context:
    return replace(context, settings=context.settings.model_copy(update={"ready_tasks_max": ready_tasks_max}))


READY_MAX = 210  # a pool with two slots has as many as 200


async def test_a_huge_job_costs_rows_only_as_it_runs(context: Context, play: Play) -> None:
    context = bounded(context, READY_MAX)
    job_id = await play.submit(input={"type": "range", "count": 10_000_000}, stages=20)
    for _ in range(100):
        assert await plan.step(context), "there is more to plan"
    assert await play.states(job_id) == {"ready": READY_MAX}

    worker_id = await play.register()
    await play.succeed(worker_id, await play.run(worker_id, job_id, tasks=100))
    for _ in range(100):
        await plan.step(context)

    assert READY_MAX <= (await play.states(job_id))["ready"] < READY_MAX + 7
    first, second, *_ = (await load_job(play.database, job_id)).stages
    assert first.task_count == second.task_count == 10_000_000
    assert first.progress.succeeded == second.progress.ready == 100
    await assert_invariants(play.database, job_id)


async def test_a_job_that_runs_is_planned_to_its_end(context: Context, play: Play) -> None:
    context = bounded(context, READY_MAX)
    job_id = await play.submit(input={"type": "range", "count": 1000})
    worker_id = await play.register()

    async def ended() -> bool:
        await play.succeed(worker_id, await play.run(worker_id, job_id, tasks=150))
        states = await play.states(job_id)
        assert states.get("ready", 0) < READY_MAX + 7
        return states == {"succeeded": 1000}

    await drive(context, plan.step, until=ended)
    stage = await play.stage(job_id)
    assert (stage["planned"], stage["task_count"]) == (True, 1000)
    await assert_invariants(play.database, job_id)


async def test_a_job_that_is_full_holds_up_the_planning_of_no_other(context: Context, play: Play) -> None:
    context = bounded(context, READY_MAX)
    for _ in range(plan.JOBS_AT_ONCE + 1):
        await play.submit(input={"type": "range", "count": 10_000_000}, priority=5)
    for _ in range(100):
        await plan.step(context)
    small = await play.submit(input={"type": "range", "count": 3})

    await plan.step(context)

    assert await play.states(small) == {"ready": 3}


async def test_tasks_in_their_backoff_do_not_keep_others_from_being_planned(context: Context, play: Play) -> None:
    context = bounded(context, READY_MAX)
    job_id = await play.submit(input={"type": "range", "count": 1000})
    for _ in range(100):
        await plan.step(context)
    await play.database.execute("UPDATE tasks SET ready_at = now() + interval '1 hour'")

    for _ in range(100):
        await plan.step(context)

    assert (await play.states(job_id))["ready"] >= 2 * READY_MAX


async def test_the_expected_number_of_parts_is_estimated_while_an_object_is_split(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await submit_lines(play, bucket)
    await plan.step(context)

    [stage] = (await load_job(play.database, job_id)).stages
    await plan_all(context, play, job_id)

    [planned] = (await load_job(play.database, job_id)).stages
    assert stage.progress.ready == 4
    assert stage.task_count == pytest.approx(planned.task_count, rel=0.1)
    assert planned.progress.waiting == 0


async def test_inputs_that_are_not_answered_hold_up_the_plan_of_no_other(
    impatient: None, context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "LONG_SECONDS", 0.1)
    hung = [await play.submit(input={"type": "range", "count": 3}, priority=1) for _ in range(plan.JOBS_AT_ONCE + 1)]
    free = await play.submit(input={"type": "range", "count": 3})

    async def never(context: Context, job: Any) -> None:
        if job["job_id"] in hung:
            await asyncio.Event().wait()
        await plain(context, job)

    plain = plan._plan_chunk
    monkeypatch.setattr(plan, "_plan_chunk", never)

    async def planned() -> bool:
        return bool((await play.stage(free))["planned"])

    await drive(context, plan.step, until=planned)
    await context.slots["plan"].stop()
