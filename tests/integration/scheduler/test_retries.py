"""Retries through the real loops: what runs again, what is made again after it, and which version each attempt ran."""

import asyncio
import json
from typing import Any
from uuid import UUID

import pytest

from services.contract.task_input import Outputs
from services.engine import jobs, open_jobs, retries
from services.engine.attempt import ClaimedTask
from services.engine.errors import Conflict, SpecError
from services.engine.places import Reader
from services.engine.plans import Plan
from services.engine.retries import RetryOrder, processor_at
from services.inputs.chunk import Chunk
from services.scheduler.loop import Context
from services.scheduler.loops import chain, finish, follow, plan
from services.scheduler.merges.merge import Merger
from services.scheduler.planning.chunks import save_chunk
from services.worker.node.stages import Stages
from tests.integration.engine.play import Play, add_processor, finished
from tests.integration.scheduler.conftest import Bucket, drive, finish_job
from tests.integration.scheduler.test_chain import yields
from tests.invariants import assert_invariants

TOLERANT = {"processor": "work", "tolerated_failures": 5}


@pytest.fixture
async def play(play: Play) -> Play:
    """With a processor of two versions, of which jobs are given the first."""
    await add_processor(play.database, "work", builtin="noop")
    return play


async def retry(play: Play, job_id: UUID, **order: Any) -> None:
    await assert_invariants(play.database, job_id)
    async with play.database.acquire() as connection:
        await retries.retry_job(connection, job_id, RetryOrder(**order), play.settings, Reader())
    await assert_invariants(play.database, job_id)


async def fix(play: Play) -> None:
    """Another version of the processor."""
    assert await add_processor(play.database, "work", builtin="copy") == 2


async def run(play: Play, job_id: UUID, stage: int = 0, *, failing: tuple[int, ...] = ()) -> list[ClaimedTask]:
    """What is ready of a stage runs; these tasks fail for good."""
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, stage)
    reports = [finished(task, "failed", retryable=False) if task.index in failing else finished(task) for task in tasks]
    assert await play.complete(worker_id, *reports, done=tasks) == len(tasks)
    return tasks


async def attempts(play: Play, job_id: UUID, stage: int = 0) -> dict[int, int]:
    """The number of each task's newest attempt."""
    rows = await play.database.fetch(
        "SELECT index, attempt FROM tasks WHERE job_id = $1 AND stage = $2 ORDER BY index", job_id, stage
    )
    return {row["index"]: row["attempt"] for row in rows}


async def versions(play: Play, job_id: UUID, stage: int = 0) -> list[tuple[int, str]]:
    """Each attempt's task, and what it ran."""
    row = await play.stage(job_id, stage)
    ended = await play.database.fetch(
        "SELECT index, finished_at FROM attempts WHERE job_id = $1 AND stage = $2 ORDER BY index, attempt",
        job_id,
        stage,
    )
    return [(each["index"], processor_at(row, each["finished_at"])) for each in ended]


async def two_stages_done(context: Context, play: Play, tasks: int) -> UUID:
    """A job of two stages, the second of which followed the first task by task, that has succeeded."""
    job_id = await play.submit(stages=2)
    await play.plan(job_id, tasks)
    await run(play, job_id)
    await finish.step(context)
    await run(play, job_id, 1)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    return job_id


async def test_tolerated_failures_of_a_job_that_has_succeeded_run_again_and_what_follows_is_made(
    context: Context, play: Play
) -> None:
    job_id = await play.submit(stages=[TOLERANT, {"processor": "work"}])
    await play.plan(job_id, 4)
    await run(play, job_id, failing=(2,))
    await finish.step(context)
    await run(play, job_id, 1)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    await fix(play)

    await retry(play, job_id, latest=True)

    assert (await play.job(job_id))["state"] == "running"
    assert await play.states(job_id) == {"succeeded": 3, "ready": 1}
    assert [task.index for task in await run(play, job_id)] == [2]
    assert [task.index for task in await run(play, job_id, 1)] == [2]
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await attempts(play, job_id) == {0: 1, 1: 1, 2: 2, 3: 1}
    assert await attempts(play, job_id, 1) == {0: 1, 1: 1, 2: 1, 3: 1}
    old, new = "work@1", "work@2"
    assert await versions(play, job_id) == [(0, old), (1, old), (2, old), (2, new), (3, old)]
    assert await versions(play, job_id, 1) == [(0, old), (1, old), (2, new), (3, old)]


async def test_a_failed_job_goes_on_with_a_fix_and_keeps_what_had_succeeded(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}])
    await play.plan(job_id, 3)
    await run(play, job_id, failing=(1,))
    assert (await finish_job(context, play, job_id))["state"] == "failed"
    await fix(play)

    await retry(play, job_id, processors=["work@2"])

    await run(play, job_id)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await versions(play, job_id) == [(0, "work@1"), (1, "work@1"), (1, "work@2"), (2, "work@1")]


async def test_a_whole_stage_runs_again_and_all_that_was_made_of_it_is_made_again(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}, {"processor": "work"}, {"processor": "work"}])
    await play.plan(job_id, 3)
    for stage in range(3):
        last = await run(play, job_id, stage)
        await finish.step(context)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    await fix(play)

    await retry(play, job_id, stage=1, processors=["work@2"])

    assert await play.states(job_id) == {"succeeded": 3}
    assert await play.states(job_id, 1) == {"ready": 3}
    assert await play.states(job_id, 2) == {}
    # Whoever still runs an attempt of a task that is gone changes nothing.
    assert await play.complete(await play.register(), finished(last[0])) == 0
    await run(play, job_id, 1)
    assert [task.attempt for task in await run(play, job_id, 2)] == [2, 2, 2]
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await versions(play, job_id, 1) == [(i, f"work@{v}") for i in range(3) for v in (1, 2)]
    assert {version for _, version in await versions(play, job_id, 2)} == {"work@1"}


async def test_some_tasks_run_again_with_their_followers_alone(context: Context, play: Play) -> None:
    job_id = await two_stages_done(context, play, 4)

    await retry(play, job_id, stage="stage-0", tasks=[0, 3])

    assert await play.states(job_id) == {"succeeded": 2, "ready": 2}
    assert await play.states(job_id, 1) == {"succeeded": 2}
    await run(play, job_id)
    await run(play, job_id, 1)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    assert await attempts(play, job_id, 1) == {0: 2, 1: 1, 2: 1, 3: 2}


async def test_a_reduce_is_planned_again_when_there_is_more_to_reduce(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await play.submit(stages=[TOLERANT], merge={"type": "reduce", "processor": "noop"})
    await play.plan(job_id, 3)
    await run(play, job_id, failing=(0,))
    await finish.step(context)
    await drive(context, chain.step, until=lambda: is_planned(play, job_id, 1))
    await run(play, job_id, 1)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"

    await retry(play, job_id)

    assert await play.states(job_id, 1) == {}
    await run(play, job_id)
    await finish.step(context)
    await drive(context, chain.step, until=lambda: is_planned(play, job_id, 1))
    [reduce] = await run(play, job_id, 1)
    assert isinstance(reduce.input, Outputs)
    lines = (await bucket.get(reduce.input.location.uri)).splitlines()
    assert [json.loads(line)["index"] for line in lines] == [0, 1, 2]
    assert reduce.attempt == 2
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"


async def test_items_of_a_fan_out_are_made_again_and_workers_learn_how_many_there_are(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await play.submit(stages=[{"processor": "work", "fan_out": True}, {"processor": "work"}])
    await play.plan(job_id, 1)
    known = Stages(play.database)
    worker_id = await play.register()

    async def fan_out(*items: str) -> int:
        [message] = await play.dispatch(job_id)
        [task] = await play.claim(worker_id, [message])
        await play.complete(worker_id, await yields(bucket, task, items), done=[task])
        await finish.step(context)
        await drive(context, chain.step, until=lambda: is_planned(play, job_id, 1))
        [message, *_] = await play.dispatch(job_id, 1)
        array = (await known.get(job_id, 1, message.revision)).array
        await play.succeed(worker_id, await play.claim(worker_id, [message]))
        assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
        assert array is not None
        return len(array.numbers)

    assert await fan_out("a", "b") == 2

    await retry(play, job_id, stage=0)

    assert await fan_out("c", "d", "e") == 3
    assert await attempts(play, job_id, 1) == {0: 2, 1: 2, 2: 2}


async def is_planned(play: Play, job_id: UUID, stage: int) -> bool:
    return bool((await play.stage(job_id, stage))["planned"])


async def test_a_plan_that_was_read_before_the_retry_plans_nothing(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}], merge={"type": "reduce", "processor": "noop"})
    await play.plan(job_id, 1)
    await run(play, job_id)
    await finish.step(context)
    before = await play.stage(job_id, 1)
    read = Plan(job_id, 1, before["plan_cursor"], before["revision"])
    await drive(context, chain.step, until=lambda: is_planned(play, job_id, 1))
    await run(play, job_id, 1)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    await retry(play, job_id, stage=0)
    assert (await play.stage(job_id, 1))["plan_cursor"] == read.cursor

    await save_chunk(context, read, Chunk([{"type": "item", "value": "stale"}], {"index": 1}, done=True))

    assert await play.states(job_id, 1) == {}


async def test_workers_run_the_version_that_a_retry_has_chosen(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}])
    await play.plan(job_id, 1)
    known = Stages(play.database)
    [message] = await play.dispatch(job_id)
    assert (await known.get(job_id, 0, message.revision)).processor_version == 1
    worker_id = await play.register()
    [task] = await play.claim(worker_id, [message])
    await play.complete(worker_id, finished(task, "failed", retryable=False), done=[task])
    await finish_job(context, play, job_id)
    await fix(play)

    await retry(play, job_id, latest=True)

    [message] = await play.dispatch(job_id)
    assert (await known.get(job_id, 0, message.revision)).processor_version == 2


@pytest.mark.parametrize("outputs", [("out.jpg", "{index}.jpg"), ("{index}.jpg", "out.jpg")])
async def test_results_are_not_named_in_two_ways(context: Context, play: Play, outputs: tuple[str, str]) -> None:
    first, second = ({"command": ["work"], "output": output} for output in outputs)
    await add_processor(play.database, "draw", **first)
    job_id = await play.submit(stages=[{"processor": "draw", "tolerated_failures": 1}])
    await play.plan(job_id, 2)
    await run(play, job_id, failing=(1,))
    await finish_job(context, play, job_id, Merger().step)
    before = (await play.stage(job_id))["options"]
    await add_processor(play.database, "draw", **second)

    for order in ({}, {"stage": 0, "only_failed": True}, {"stage": 0, "tasks": [0]}):
        with pytest.raises(Conflict, match=r"run the whole stage again \(stage: stage-0\)"):
            await retry(play, job_id, latest=True, **order)
    assert (await play.stage(job_id))["options"] == before

    await retry(play, job_id, latest=True, stage=0)
    work = await Stages(play.database).get(job_id, 0)
    assert (work.spec.output, work.named_results) == (outputs[1], outputs[1] == "{index}.jpg")


async def test_a_stage_that_has_made_nothing_may_name_its_results_in_another_way(context: Context, play: Play) -> None:
    await add_processor(play.database, "draw", command=["work"], output="out.jpg")
    job_id = await play.submit(stages=[{"processor": "draw"}])
    await play.plan(job_id, 1)
    await run(play, job_id, failing=(0,))
    await finish_job(context, play, job_id)
    await add_processor(play.database, "draw", command=["work"], output="{index}.jpg")

    await retry(play, job_id, latest=True)

    assert (await Stages(play.database).get(job_id, 0)).named_results


async def test_replaced_objects_are_taken_as_they_are_when_that_is_asked_for(
    context: Context, play: Play, bucket: Bucket
) -> None:
    prefix = (await bucket.put("in/a.txt", b"a")).removesuffix("a.txt")
    await bucket.put("in/b.txt", b"b")
    job_id = await play.submit(input={"type": "objects", "prefix": prefix}, stages=[TOLERANT])
    await drive(context, plan.step, until=lambda: is_planned(play, job_id, 0))
    await run(play, job_id, failing=(1,))
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"

    await retry(play, job_id, accept_changed=True)

    first, second = [(await play.task(job_id, index))["input"] for index in (0, 1)]
    assert first["etag"] == await bucket.etag("in/a.txt")
    assert second == {"type": "object", "uri": f"{prefix}b.txt"}


async def test_parts_of_a_replaced_object_are_cut_again_with_their_whole_stage(
    context: Context, play: Play, bucket: Bucket
) -> None:
    uri = await bucket.put("in.txt", b"one\ntwo\n")
    job_id = await play.submit(input={"type": "lines", "uri": uri}, stages=[TOLERANT])
    await drive(context, plan.step, until=lambda: is_planned(play, job_id, 0))
    await run(play, job_id, failing=(0,))
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"
    await bucket.put("in.txt", b"another text\n")

    with pytest.raises(SpecError, match="a part of an object"):
        await retry(play, job_id, accept_changed=True)
    await retry(play, job_id, accept_changed=True, stage=0)

    await drive(context, plan.step, until=lambda: is_planned(play, job_id, 0))
    task = await play.task(job_id, 0)
    assert (task["input"]["end"], task["attempt"]) == (13, 1)
    await run(play, job_id)
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"


async def test_what_names_no_objects_is_not_planned_again_for_changed_ones(context: Context, play: Play) -> None:
    """An open job's items would be lost, and an array that follows another would not wait for it."""
    stream = await play.submit(input={"type": "stream"})
    async with play.database.acquire() as connection, connection.transaction():
        await open_jobs.append_items(connection, stream, 0, ["a", "b"], 100)
    first = await play.submit(input={"type": "range", "count": 2}, stages=[TOLERANT])
    follower = await play.submit(input={"type": "range", "count": 2}, after=[f"{first}:index"])
    await play.plan(first, 2)
    await run(play, first, failing=(1,))
    await follow.step(context)
    for job_id in (stream, follower):
        before = await play.states(job_id)
        assert before
        await play.order(jobs.cancel_job, job_id)
        await finish_job(context, play, job_id)

        with pytest.raises(SpecError, match="names no objects"):
            await retry(play, job_id, stage=0, accept_changed=True)

        assert await play.states(job_id) == {"cancelled": before["ready"]}
        await play.order(jobs.retry_job, job_id)
        assert await play.states(job_id) == before


@pytest.mark.parametrize(
    ("order", "refused", "fix"),
    [
        ({}, Conflict, "all tasks have succeeded"),
        ({"stage": 0, "only_failed": True}, Conflict, "all tasks of stage 'stage-0' have succeeded"),
        ({"stage": "clean"}, SpecError, r"no such stage \(stages: 0 \(stage-0\)"),
        ({"stage": 0, "tasks": [0, 7]}, SpecError, "has 2 tasks"),
        ({"stage": "reduce", "tasks": [0]}, SpecError, "leave it out"),
        ({"stage": "reduce", "processors": ["work"], "accept_changed": True}, SpecError, "no task of the first stage"),
        ({"stage": 0, "accept_changed": True}, SpecError, "names no objects"),
        ({"stage": "reduce", "processors": ["nope@4"]}, SpecError, "no such processor is registered"),
        ({"stage": 0, "processors": ["work@1", "noop@1", "nope"]}, SpecError, r"used: work \(stage-0\)"),
    ],
)
async def test_what_can_not_be_retried_is_refused_and_changes_nothing(
    context: Context, play: Play, order: dict[str, Any], refused: type[Exception], fix: str
) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}], merge={"type": "reduce", "processor": "noop"})
    await play.plan(job_id, 2)
    await run(play, job_id)
    await finish.step(context)
    await drive(context, chain.step, until=lambda: is_planned(play, job_id, 1))
    await run(play, job_id, 1)
    await finish_job(context, play, job_id, Merger().step)
    before = [await play.job(job_id), await play.stage(job_id, 0), await play.stage(job_id, 1)]

    with pytest.raises(refused, match=fix):
        await retry(play, job_id, **order)

    assert [await play.job(job_id), await play.stage(job_id, 0), await play.stage(job_id, 1)] == before
    assert await play.states(job_id) == {"succeeded": 2}


async def test_a_stage_is_not_changed_under_workers_that_would_not_hear_of_it(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}])
    await play.plan(job_id, 2)
    await run(play, job_id, failing=(1,))
    assert (await finish_job(context, play, job_id))["state"] == "failed"
    await fix(play)
    await play.database.execute("UPDATE workers SET release = NULL")

    with pytest.raises(Conflict, match="update them first"):
        await retry(play, job_id, latest=True)
    await retry(play, job_id)

    assert (await play.stage(job_id))["processor_version"] == 1
    assert await play.states(job_id) == {"succeeded": 1, "ready": 1}


async def test_of_two_retries_at_once_one_counts(context: Context, play: Play) -> None:
    job_id = await two_stages_done(context, play, 3)

    done = await asyncio.gather(*(retry(play, job_id, stage=stage) for stage in (0, 1)), return_exceptions=True)

    [refused] = [each for each in done if each is not None]
    assert isinstance(refused, Conflict) and "a job that is running can't be retried" in str(refused)
    await assert_invariants(play.database, job_id)


async def test_piecework_s_own_stages_take_no_other_code(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=[{"processor": "work"}], merge={"type": "parquet"})
    await play.database.execute("UPDATE jobs SET state = 'failed'; UPDATE stages SET state = 'failed'")

    with pytest.raises(SpecError, match="Piecework's own"):
        await retry(play, job_id, stage="compact", processors=["work@1"])


@pytest.mark.parametrize(
    ("order", "fix"),
    [
        ({"tasks": [1]}, "name the stage"),
        ({"only_failed": True}, "name the stage"),
        ({"stage": 0, "only_failed": True, "tasks": [1]}, "give either this or tasks"),
        ({"latest": True, "processors": ["work@2"]}, "give either this or processors"),
    ],
)
def test_an_order_that_contradicts_itself_is_refused(order: dict[str, Any], fix: str) -> None:
    with pytest.raises(ValueError, match=fix):
        RetryOrder(**order)
