"""How stages chain beside task by task: fan-out, barrier, joined and split again, reduce in levels."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import pytest

from services.contract.location import Location
from services.contract.task_input import GridSplit, Outputs
from services.engine import errors, jobs
from services.engine.attempt import AttemptReport, ClaimedTask
from services.scheduler import put_off
from services.scheduler.loop import Context
from services.scheduler.loops import chain, finish
from services.scheduler.merges.merge import Merger
from services.scheduler.planning import items as items_plan
from services.scheduler.planning import outputs
from tests.integration.engine.play import Play, add_processor, finished
from tests.integration.scheduler.conftest import Bucket, drive, finish_job
from tests.invariants import assert_invariants

FAN_OUT = [{"processor": "noop", "fan_out": True, "tolerated_failures": 1}, {"processor": "noop"}]


async def yields(bucket: Bucket, task: ClaimedTask, values: Sequence[Any]) -> AttemptReport:
    """The report of a fan-out task with these items."""
    listing = b"".join(json.dumps({"type": "item", "value": value}).encode() + b"\n" for value in values)
    uri = await bucket.put(f"items/{task.job_id}-{task.stage}-{task.index}", listing)
    return finished(task, output={"uri": uri, "bytes": len(listing), "items": len(values)})


async def inputs(play: Play, job_id: UUID, stage: int) -> list[Any]:
    """What the tasks of a stage work on, by index; there is no gap."""
    rows = await play.database.fetch(
        "SELECT index, input FROM tasks WHERE job_id = $1 AND stage = $2 ORDER BY index", job_id, stage
    )
    assert [row["index"] for row in rows] == list(range(len(rows)))
    return [row["input"].get("value", row["input"]) for row in rows]


async def chain_on(context: Context) -> None:
    """All that can be planned now."""
    before = None
    while (now := await context.database.fetch("SELECT plan_cursor, planned FROM stages")) != before:
        before = now
        await chain.step(context)


async def test_items_become_tasks_in_the_order_of_their_tasks_as_these_end(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 4)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)

    await play.complete(worker_id, await yields(bucket, tasks[1], ["c"]))
    await chain_on(context)
    assert await inputs(play, job_id, 1) == []

    await play.complete(worker_id, await yields(bucket, tasks[0], ["a", "b"]))
    await chain_on(context)
    assert await inputs(play, job_id, 1) == ["a", "b", "c"]
    early = await play.run(worker_id, job_id, 1)
    assert len(early) == 3  # they run while their stage grows

    failed = finished(tasks[2], "failed", retryable=False)
    await play.complete(worker_id, failed, await yields(bucket, tasks[3], [{"n": 4}]), done=tasks)
    await chain_on(context)
    assert len(await inputs(play, job_id, 1)) == 3  # the failed one may be tried again until its stage has ended
    await finish.step(context)
    await chain_on(context)

    assert await inputs(play, job_id, 1) == ["a", "b", "c", {"n": 4}]
    second = await play.stage(job_id, 1)
    assert (second["planned"], second["task_count"]) == (True, 4)
    await play.succeed(worker_id, early)
    await play.succeed(worker_id, await play.run(worker_id, job_id, 1))
    await assert_invariants(play.database, job_id)
    await finish.step(context)
    assert (await play.stage(job_id, 1))["state"] == "merging"


async def test_a_fan_out_of_nothing_is_an_empty_stage(context: Context, play: Play, bucket: Bucket) -> None:
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 2)
    worker_id = await play.register()
    first, second = await play.run(worker_id, job_id)
    await play.complete(worker_id, await yields(bucket, first, []), finished(second, output=None), done=[first, second])

    await finish.step(context)
    await chain_on(context)
    await finish.step(context)

    assert (await play.stage(job_id, 1))["state"] == "merging"


async def test_a_fan_out_after_a_chained_stage_waits_for_the_gaps_that_may_close(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await play.submit(stages=[{"processor": "noop", "tolerated_failures": 1}, *FAN_OUT])
    await play.plan(job_id, 3)
    worker_id = await play.register()
    zero, one, two = await play.run(worker_id, job_id)
    await play.complete(worker_id, finished(zero), finished(two))
    for task in await play.run(worker_id, job_id, 1):
        await play.complete(worker_id, await yields(bucket, task, [task.index]), done=[task])
    await chain_on(context)
    assert await inputs(play, job_id, 2) == [0]

    await play.complete(worker_id, finished(one, "failed", retryable=False), done=[zero, one, two])
    await finish.step(context)
    await chain_on(context)

    assert await inputs(play, job_id, 2) == [0, 2]


async def test_a_long_listing_is_read_piece_by_piece_and_two_schedulers_plan_each_item_once(
    context: Context, other: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(items_plan, "CHUNK_BYTES", 250)
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 3)
    worker_id = await play.register()
    values = [[f"{index}-{n}" for n in range(9 * index)] + ["x" * 300] for index in range(3)]
    tasks = await play.run(worker_id, job_id)
    reports = [await yields(bucket, task, values[task.index]) for task in tasks]
    await play.complete(worker_id, *reports, done=tasks)

    async def planned() -> bool:
        await asyncio.gather(chain.step(context), chain.step(other))
        return bool((await play.stage(job_id, 1))["planned"])

    await drive(context, finish.step, until=planned)

    assert await inputs(play, job_id, 1) == [value for listed in values for value in listed]
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize("items", [1, 7, 5_000])
@pytest.mark.parametrize("chunk_bytes", [30, 200, 1000, 100_000])
async def test_no_item_is_lost_between_listings_of_different_lengths(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, items: int
) -> None:
    monkeypatch.setattr(items_plan, "CHUNK_BYTES", chunk_bytes)
    monkeypatch.setattr(items_plan, "ITEMS_PER_CHUNK", items)
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 6)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    values = [[f"{index}-{n}" for n in range(count)] for index, count in enumerate((20, 1, 0, 7, 90, 1))]
    reports = [await yields(bucket, task, values[task.index]) for task in tasks]
    await play.complete(worker_id, *reports, done=tasks)
    await finish.step(context)

    await chain_on(context)

    assert await inputs(play, job_id, 1) == [value for listed in values for value in listed]


async def test_a_listing_that_is_gone_fails_the_job(context: Context, play: Play) -> None:
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 1)
    worker_id = await play.register()
    [task] = await play.run(worker_id, job_id)
    lost = {"uri": f"s3://{context.settings.bucket}/gone", "bytes": 9, "items": 1}
    await play.complete(worker_id, finished(task, output=lost), done=[task])

    job = await finish_job(context, play, job_id, chain.step)

    assert job["state"] == "failed"
    assert job["error"]["stage"] == 1
    assert "the outputs of stage 0" in job["error"]["message"]


async def test_after_a_barrier_task_i_works_on_output_i(
    context: Context, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "TASKS_PER_CHUNK", 2)
    first = {"processor": "noop", "tolerated_failures": 1}
    job_id = await play.submit(stages=[first, {"processor": "noop", "barrier": True}])
    await play.plan(job_id, 6)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    await play.complete(worker_id, *map(finished, tasks[1:]), done=tasks[1:])
    await chain_on(context)
    waiting = await play.stage(job_id, 1)
    assert (waiting["state"], await play.states(job_id, 1)) == ("waiting", {})

    await play.complete(worker_id, finished(tasks[0], "failed", retryable=False), done=tasks)
    await finish.step(context)
    await chain.step(context)
    assert (await play.stage(job_id, 1))["state"] == "running"
    await chain_on(context)

    rows = await play.database.fetch(
        "SELECT index, input FROM tasks WHERE job_id = $1 AND stage = 1 ORDER BY 1", job_id
    )
    assert [(row["index"], row["input"]["value"]) for row in rows] == [(n, n) for n in range(1, 6)]
    assert (await play.stage(job_id, 1))["task_count"] == 5
    await assert_invariants(play.database, job_id)


async def test_the_outputs_of_a_stage_are_joined_and_split_again(context: Context, play: Play, bucket: Bucket) -> None:
    resplit = {"type": "lines", "format": "csv", "part_bytes": 12}
    job_id = await play.submit(stages=[{"processor": "noop"}, {"processor": "noop", "resplit": resplit}])
    await play.plan(job_id, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    for task in tasks:
        body = f"name,n\na{task.index},1\nb{task.index},2\n".encode()
        uri = await bucket.put(f"{job_id}/{task.index}", body)
        output = {"uri": uri, "bytes": len(body), "header_bytes": 7}
        await play.complete(worker_id, finished(task, output=output), done=[task])
    merger = Merger()

    async def planned() -> bool:
        return bool((await play.stage(job_id, 1))["planned"])

    await drive(context, finish.step, merger.step, chain.step, until=planned)

    rows = await play.database.fetch("SELECT input FROM tasks WHERE job_id = $1 AND stage = 1 ORDER BY index", job_id)
    parts = [row["input"] for row in rows]
    joined = await bucket.get(parts[0]["uri"])
    assert joined == b"name,n\na0,1\nb0,2\na1,1\nb1,2\na2,1\nb2,2\n"
    assert len(parts) > 1
    assert {part["header"] for part in parts} == {"name,n\n"}
    assert b"".join(joined[part["start"] : part["end"]] for part in parts) == joined[7:]
    assert (await play.stage(job_id, 0))["state"] == "succeeded"


async def test_many_stages_that_are_always_put_off_hold_up_no_other(
    context: Context, play: Play, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(put_off, "PUT_OFF_SECONDS", 0.0)
    *unlucky, lucky = [await play.submit(stages=FAN_OUT, priority=int(n < 20)) for n in range(21)]
    worker_id = await play.register()
    for job_id in (*unlucky, lucky):
        await play.plan(job_id, 1)
        [task] = await play.run(worker_id, job_id)
        await play.complete(worker_id, await yields(bucket, task, ["a"]), done=[task])
    plain = items_plan.read_written

    async def read_written(s3: Any, location: Location, *arguments: Any, **checks: Any) -> bytes:
        if str(lucky) not in location.key:
            raise TimeoutError
        return await plain(s3, location, *arguments, **checks)

    monkeypatch.setattr(items_plan, "read_written", read_written)
    for _ in range(2):
        await chain.step(context)

    assert await inputs(play, lucky, 1) == ["a"]
    assert None not in [(await play.stage(job_id, 1))["put_off_at"] for job_id in unlucky]


async def test_joined_outputs_whose_fields_hold_newlines_are_split_by_a_task(
    context: Context, play: Play, bucket: Bucket
) -> None:
    resplit = {"type": "lines", "format": "csv", "part_bytes": 12, "multiline": True}
    stages = [{"processor": "noop", "name": "split"}, {"processor": "noop", "resplit": resplit, "timeout_seconds": 9}]
    job_id = await play.submit(stages=[*stages, stages[1]])
    kinds = await play.database.fetch(
        "SELECT name, kind, tasks_from, timeout_seconds FROM stages WHERE job_id = $1 ORDER BY stage", job_id
    )
    assert [tuple(row) for row in kinds] == [
        ("split", "map", "input", 3600),
        ("split-2", "split", "resplit", 9),
        ("stage-1", "map", "items", 9),
        ("split-3", "split", "resplit", 9),
        ("stage-2", "map", "items", 9),
    ]
    await play.plan(job_id, 2)
    worker_id = await play.register()
    for task in await play.run(worker_id, job_id):
        body = f'name,n\n"a\n{task.index}",1\n'.encode()
        uri = await bucket.put(f"{job_id}/{task.index}", body)
        output = {"uri": uri, "bytes": len(body), "header_bytes": 7}
        await play.complete(worker_id, finished(task, output=output), done=[task])
    steps = (finish.step, Merger().step, chain.step)

    def planned(stage: int) -> Callable[[], Awaitable[bool]]:
        async def is_planned() -> bool:
            return bool((await play.stage(job_id, stage))["planned"])

        return is_planned

    await drive(context, *steps, until=planned(1))
    [splitting] = await play.run(worker_id, job_id, 1)
    assert isinstance(splitting.input, GridSplit)
    source = splitting.input.source
    assert await bucket.get(source["uri"]) == b'name,n\n"a\n0",1\n"a\n1",1\n'
    assert splitting.input.part_bytes == 12
    assert source == {"type": "lines", "format": "csv", "part_bytes": 12, "multiline": True, "uri": source["uri"]}
    assert splitting.input.etag

    await play.complete(worker_id, await yields(bucket, splitting, ["part 0", "part 1"]), done=[splitting])
    await drive(context, *steps, until=planned(2))
    assert await inputs(play, job_id, 2) == ["part 0", "part 1"]
    await play.succeed(worker_id, await play.run(worker_id, job_id, 2))
    await drive(context, *steps, until=planned(3))
    await assert_invariants(play.database, job_id)


@pytest.mark.parametrize(("outputs", "levels"), [(0, [1]), (1, [1]), (3, [1]), (4, [2, 1]), (10, [4, 2, 1])])
async def test_many_outputs_are_reduced_level_by_level(
    context: Context, play: Play, bucket: Bucket, outputs: int, levels: list[int]
) -> None:
    job_id = await play.submit(merge={"type": "reduce", "processor": "noop", "fan_in": 3})
    await play.plan(job_id, outputs)
    await play.run_all(job_id)
    await finish.step(context)
    worker_id = await play.register()
    listed: list[list[Any]] = []
    for count in levels:
        await chain_on(context)
        tasks = await play.run(worker_id, job_id, 1)
        assert len(tasks) == count
        for task in tasks:
            assert isinstance(task.input, Outputs)
            lines = (await bucket.get(task.input.location.uri)).splitlines()
            members = [json.loads(line)["value"] for line in lines]
            listed.append(members)
            # Each task's value is the list of all values below it.
            value = [leaf for member in members for leaf in (member if isinstance(member, list) else [member])]
            await play.complete(worker_id, finished(task, output={"value": value}), done=[task])
    await chain_on(context)

    stage = await play.stage(job_id, 1)
    assert (stage["planned"], stage["task_count"]) == (True, sum(levels))
    last = await play.task(job_id, sum(levels) - 1, stage=1)
    assert last["output"]["value"] == list(range(outputs))
    assert all(len(members) <= 3 for members in listed)
    job = await finish_job(context, play, job_id, Merger().step)
    assert job["state"] == "succeeded"


async def test_a_level_that_failed_is_tried_again_and_the_levels_go_on(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await play.submit(merge={"type": "reduce", "processor": "noop", "fan_in": 2})
    await play.plan(job_id, 4)
    await play.run_all(job_id)
    await finish.step(context)
    await chain_on(context)
    worker_id = await play.register()
    good, bad = await play.run(worker_id, job_id, 1)
    failed = finished(bad, "failed", retryable=False)
    await play.complete(worker_id, finished(good), failed, done=[good, bad])
    assert (await finish_job(context, play, job_id, chain.step))["state"] == "failed"

    await play.order(jobs.retry_job, job_id)
    await play.succeed(worker_id, await play.run(worker_id, job_id, 1))
    await chain_on(context)
    await play.succeed(worker_id, await play.run(worker_id, job_id, 1))

    assert (await finish_job(context, play, job_id, chain.step, Merger().step))["state"] == "succeeded"
    assert await play.states(job_id, 1) == {"succeeded": 3}


@pytest.mark.parametrize(
    ("stages", "field", "fix"),
    [
        ([{"processor": "noop", "barrier": True}], "stages.0.barrier", "before the first"),
        ([{"processor": "noop", "fan_out": True}], "stages.0.fan_out", "after the last"),
        ([*FAN_OUT[:1], {"processor": "noop", "resplit": {"type": "lines"}}], "stages.1.resplit", "fans out"),
        (
            [*FAN_OUT[:1], {"processor": "noop", "resplit": {"type": "lines", "format": "csv", "multiline": True}}],
            "stages.1.resplit",
            "fans out",
        ),
        (
            [
                {"processor": "noop"},
                {"processor": "noop", "resplit": {"type": "lines", "format": "csv", "compression": "gzip"}},
            ],
            "stages.1.resplit.header",
            "would repeat its header line",
        ),
        ([{"processor": "files"}, {"processor": "noop"}], "stages.0.fan_out", "directory of files"),
        ([{"processor": "piecework-split"}], "stages.0.processor", "Piecework's own stages"),
        ([{"processor": "priced"}], "stages.0.inputs", "needs the input 'fees'"),
        ([{"processor": "noop", "inputs": {"fees": "s3://b/k"}}], "stages.0.inputs", "declares no such input"),
    ],
)
async def test_what_does_not_go_together_is_refused(
    play: Play, stages: list[dict[str, Any]], field: str, fix: str
) -> None:
    await add_processor(play.database, "files", command=["x"], output_directory=True)
    await add_processor(play.database, "priced", command=["x"], inputs={"fees": None})

    with pytest.raises(errors.SpecError, match=fix) as refused:
        await play.submit(stages=stages)

    assert refused.value.field == field


@pytest.mark.parametrize(
    ("writer", "why"),
    [
        ({"sql": "FROM input", "output_format": "parquet"}, "writer writes Parquet"),
        ({"command": ["x"], "outputs": {"log": "log.parquet"}}, "writer writes Parquet"),
        ({"function": "a:b"}, "writer returns values, which are not files"),
    ],
)
async def test_parquet_and_values_are_not_concatenated(play: Play, writer: dict[str, Any], why: str) -> None:
    await add_processor(play.database, "writer", **writer)

    for job, field in (
        ({"stages": [{"processor": "writer"}], "merge": {"type": "concat"}}, "merge.type"),
        (
            {"stages": [{"processor": "writer"}, {"processor": "noop", "resplit": {"type": "lines"}}]},
            "stages.1.resplit",
        ),
    ):
        with pytest.raises(errors.SpecError, match=why) as refused:
            await play.submit(**job)
        assert refused.value.field == field
    await play.submit(stages=[{"processor": "writer"}], merge={"type": "none"})


@pytest.mark.parametrize("merge", [{"type": "concat"}, {"type": "reduce", "processor": "priced"}])
async def test_no_two_results_have_one_name(play: Play, merge: dict[str, Any]) -> None:
    await add_processor(play.database, "priced", command=["x"], outputs={"ledger": "all.csv"})

    with pytest.raises(errors.SpecError, match="further output of priced") as refused:
        await play.submit(stages=[{"processor": "priced"}], merge=merge | {"filename": "all.csv"})

    assert refused.value.field == "merge.filename"
