"""Jobs that reuse what earlier ones have made: which tasks run, and what becomes of the copies."""

import zlib
from typing import Any
from uuid import UUID

import pytest

from services.contract.location import Location
from services.engine import lost_outputs, retention
from services.engine.attempt import LostOutput
from services.engine.errors import SpecError
from services.scheduler.loop import Context
from services.scheduler.loops import finish, plan
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play, add_processor, finished
from tests.integration.scheduler.conftest import Bucket, drive, finish_job
from tests.invariants import assert_invariants

ITEMS = {"type": "items", "items": ["a", "b", "c"]}
STAGE = {"processor": "work", "params": {"x": 1}}


@pytest.fixture
async def play(play: Play) -> Play:
    await add_processor(play.database, "work", command=["work"], output="out.txt")
    return play


async def submit(context: Context, play: Play, **changes: Any) -> UUID:
    """A job that reuses, planned."""
    job_id = await play.submit(**{"input": ITEMS, "stages": [STAGE], "reuse": True} | changes)

    async def planned() -> bool:
        return bool((await play.stage(job_id))["planned"])

    await drive(context, plan.step, until=planned)
    await assert_invariants(play.database, job_id)
    return job_id


async def run(context: Context, play: Play, bucket: Bucket, job_id: UUID, stage: int = 0) -> list[int]:
    """What is left of a stage runs, and writes an object each; returns the indexes."""
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, stage)
    interim = (await play.stage(job_id, stage))["options"]["interim"]
    for task in tasks:
        body = f"made of {task.index}".encode()
        place = context.settings.layout.attempt(job_id, stage, task.index, task.attempt, "out.txt", interim=interim)
        output = {"uri": await bucket.put(place.key, body), "bytes": len(body), "crc32": zlib.crc32(body)}
        report = finished(task, output=output, records_in=2, records_out=2)
        assert await play.complete(worker_id, report, done=[task]) == 1
    await finish.step(context)
    return [task.index for task in tasks]


async def first_job(context: Context, play: Play, bucket: Bucket, **changes: Any) -> UUID:
    job_id = await submit(context, play, **changes)
    assert await run(context, play, bucket, job_id) == [0, 1, 2]
    return job_id


async def end(context: Context, play: Play, job_id: UUID) -> None:
    assert (await finish_job(context, play, job_id, Merger().step))["state"] == "succeeded"


async def outputs(play: Play, bucket: Bucket, job_id: UUID, stage: int = 0) -> list[bytes]:
    rows = await play.database.fetch(
        "SELECT output FROM tasks WHERE job_id = $1 AND stage = $2 ORDER BY index", job_id, stage
    )
    assert all(f"/{job_id}/" in row["output"]["uri"] for row in rows)
    return [await bucket.get(row["output"]["uri"]) for row in rows]


async def delete_objects(play: Play, bucket: Bucket, job_id: UUID) -> None:
    for row in await play.database.fetch("SELECT output FROM tasks WHERE job_id = $1", job_id):
        await bucket.delete(row["output"]["uri"])


async def test_what_an_earlier_job_has_made_is_taken_and_stays_when_that_job_goes(
    context: Context, play: Play, bucket: Bucket
) -> None:
    first = await first_job(context, play, bucket)
    await end(context, play, first)

    second = await submit(context, play)

    assert await play.states(second) == {"succeeded": 3}
    await delete_objects(play, bucket, first)
    assert await outputs(play, bucket, second) == [b"made of 0", b"made of 1", b"made of 2"]
    attempts = await play.database.fetch("SELECT * FROM attempts WHERE job_id = $1 ORDER BY index", second)
    made = {"job_id": str(first), "stage": 0, "index": 2, "attempt": 2}
    assert (attempts[2]["outcome"], attempts[2]["run_seconds"], attempts[2]["reused_from"]) == ("succeeded", 0.0, made)
    sums = await play.database.fetchrow("SELECT * FROM stage_sums($1, 0::smallint)", second)
    assert (sums["records_out"], sums["attempts"]) == (6, 0)
    await end(context, play, second)


@pytest.mark.parametrize(
    "changes",
    [
        {"stages": [{**STAGE, "params": {"x": 2}}]},
        {"stages": [{**STAGE, "rejects_max": 1}]},
        {"input": {"type": "items", "items": ["d", "e", "f"]}},
        {"reuse": False},
    ],
)
async def test_what_differs_runs(context: Context, play: Play, bucket: Bucket, changes: dict[str, Any]) -> None:
    await first_job(context, play, bucket)

    second = await submit(context, play, **changes)

    assert await play.states(second) == {"ready": 3}


async def test_other_code_runs_and_the_same_code_of_another_name_does_not(
    context: Context, play: Play, bucket: Bucket
) -> None:
    await first_job(context, play, bucket)
    await add_processor(play.database, "same", command=["work"], output="out.txt")
    await add_processor(play.database, "work", command=["work", "-v"], output="out.txt")

    assert await play.states(await submit(context, play)) == {"ready": 3}
    assert await play.states(await submit(context, play, stages=[{**STAGE, "processor": "same"}])) == {"succeeded": 3}


async def test_only_what_is_new_runs_wherever_it_stands(context: Context, play: Play, bucket: Bucket) -> None:
    await first_job(context, play, bucket)

    second = await submit(context, play, input={"type": "items", "items": ["new", "a", "b", "c"]})

    assert await run(context, play, bucket, second) == [0]
    assert await outputs(play, bucket, second) == [b"made of 0", b"made of 0", b"made of 1", b"made of 2"]
    await end(context, play, second)


async def test_another_owners_outputs_are_not_taken(context: Context, play: Play, bucket: Bucket) -> None:
    first = await first_job(context, play, bucket)
    await play.database.execute("UPDATE jobs SET created_by = 'anna' WHERE job_id = $1", first)
    job_id = await play.submit(input=ITEMS, stages=[STAGE], reuse=True)
    await play.database.execute("UPDATE jobs SET created_by = 'ben' WHERE job_id = $1", job_id)

    await drive(context, plan.step, until=lambda: is_planned(play, job_id))

    assert await play.states(job_id) == {"ready": 3}


async def is_planned(play: Play, job_id: UUID) -> bool:
    return bool((await play.stage(job_id))["planned"])


async def test_a_chain_is_reused_up_to_the_stage_that_has_changed(context: Context, play: Play, bucket: Bucket) -> None:
    last = {"processor": "work", "params": {"y": 1}}
    first = await first_job(context, play, bucket, stages=[STAGE, last])
    assert await run(context, play, bucket, first, 1) == [0, 1, 2]
    await end(context, play, first)

    same = await submit(context, play, stages=[STAGE, last])
    other = await submit(context, play, stages=[STAGE, {**last, "params": {"y": 2}}])

    assert await play.states(same, 1) == {"succeeded": 3}
    await finish.step(context)
    await end(context, play, same)
    assert await play.states(other) == {"succeeded": 3}
    await finish.step(context)
    assert await run(context, play, bucket, other, 1) == [0, 1, 2]
    await end(context, play, other)


async def test_a_stage_after_a_reused_one_knows_the_file_of_the_input(
    context: Context, play: Play, bucket: Bucket
) -> None:
    last = {"processor": "work", "params": {"y": 1}}
    uri = await bucket.put("in/2026/cat.png", b"x")
    source = {"type": "objects", "prefix": uri.removesuffix("2026/cat.png")}
    first = await submit(context, play, input=source, stages=[STAGE, last])
    assert await run(context, play, bucket, first) == [0]

    second = await submit(context, play, input=source, stages=[STAGE, {**last, "params": {"y": 2}}])

    assert await play.states(second) == {"succeeded": 1}
    assert (await play.task(second, 0, 1))["input"]["source"] == {"uri": uri}


async def test_an_object_that_was_replaced_is_another_input(context: Context, play: Play, bucket: Bucket) -> None:
    prefix = (await bucket.put("in/0.txt", b"0")).removesuffix("0.txt")
    for number in (1, 2):
        await bucket.put(f"in/{number}.txt", b"x")
    source = {"type": "objects", "prefix": prefix}
    await first_job(context, play, bucket, input=source)
    await bucket.put("in/1.txt", b"another")

    second = await submit(context, play, input=source)

    assert await run(context, play, bucket, second) == [1]


async def test_a_copy_keeps_its_place_in_the_folder_of_its_attempt(
    context: Context, play: Play, bucket: Bucket
) -> None:
    first = await submit(context, play)
    worker_id = await play.register()
    for task in await play.run(worker_id, first, 0):
        uris = []
        for name in ("named/a.txt", "a.txt"):
            place = context.settings.layout.attempt(first, 0, task.index, task.attempt, name)
            uris.append(await bucket.put(place.key, name.encode()))
        own, further = ({"uri": uri, "bytes": 1, "crc32": 1} for uri in uris)
        report = finished(task, output={**own, "files": {"further": further}})
        assert await play.complete(worker_id, report, done=[task]) == 1

    second = await submit(context, play)

    output = (await play.task(second, 2))["output"]
    copies = [output["uri"], output["files"]["further"]["uri"]]
    assert [uri.partition(f"/{second}/0/2-1/")[2] for uri in copies] == ["named/a.txt", "a.txt"]
    assert [await bucket.get(uri) for uri in copies] == [b"named/a.txt", b"a.txt"]


@pytest.mark.parametrize("output", ["{input.stem}.txt", "{index}.txt"])
async def test_outputs_that_are_named_by_a_template_are_made_again(
    context: Context, play: Play, bucket: Bucket, output: str
) -> None:
    await add_processor(play.database, "work", command=["work"], output=output)
    prefix = (await bucket.put("in/a.txt", b"a")).removesuffix("a.txt")
    source = {"type": "objects", "prefix": prefix}
    first = await submit(context, play, input=source)
    assert await run(context, play, bucket, first) == [0]

    assert await play.states(await submit(context, play, input=source)) == {"ready": 1}


async def test_what_is_gone_is_not_reused(context: Context, play: Play, bucket: Bucket) -> None:
    first = await first_job(context, play, bucket)
    await delete_objects(play, bucket, first)

    second = await submit(context, play)

    assert await run(context, play, bucket, second) == [0, 1, 2]
    await end(context, play, second)


async def test_a_copy_that_is_lost_is_made_by_running_its_task(context: Context, play: Play, bucket: Bucket) -> None:
    await first_job(context, play, bucket)
    second = await submit(context, play)
    uri = (await play.task(second, 1))["output"]["uri"]
    maker = context.settings.layout.maker(second, Location.parse(uri))
    assert maker is not None
    async with play.database.acquire() as connection, connection.transaction():
        lost = LostOutput(maker.stage, maker.index, maker.attempt, uri)
        assert await lost_outputs.lose_outputs(connection, second, (0, -1), [lost]) is None

    assert await run(context, play, bucket, second) == [1]

    assert (await play.task(second, 1))["attempt"] == 2
    await end(context, play, second)


async def test_the_keys_of_a_deleted_job_go_in_slices(context: Context, play: Play, bucket: Bucket) -> None:
    first = await first_job(context, play, bucket)
    assert await play.database.fetchval("SELECT count(*) FROM task_keys") == 3

    after: tuple[int, int] | None = (-1, -1)
    while after is not None:
        after = await retention.delete_slice(play.database, first, "task_keys", after, 2)

    assert await play.database.fetchval("SELECT count(*) FROM task_keys") == 0


@pytest.mark.parametrize(
    ("changes", "fix"),
    [
        ({"output_queue": "https://sqs.eu-west-1.amazonaws.com/123456789012/done"}, "told of what runs"),
        ({"input": {"type": "stream"}}, "values of a stream"),
    ],
)
async def test_what_must_run_for_somebody_is_not_reused(play: Play, changes: dict[str, Any], fix: str) -> None:
    with pytest.raises(SpecError, match=fix):
        await play.submit(**{"input": ITEMS, "stages": [STAGE], "reuse": True} | changes)
