"""Whoever waits for a lost output goes on with the new one: items with the same item, a reduce with a new listing."""

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import pytest

from services.contract.location import Location
from services.contract.task_output import ListedOutput
from services.engine import jobs
from services.engine.attempt import ClaimedTask, LostOutput
from services.engine.lost_outputs import RERUNS_MAX, lose_inputs
from services.platform import effects
from services.platform.database import connect_database
from services.platform.effects import Effect, Moment
from services.scheduler.loop import Context
from services.scheduler.loops import chain, finish, renew
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Play, finished
from tests.integration.scheduler.conftest import Bucket, drive, finish_job
from tests.invariants import assert_invariants

FAN_OUT = [{"processor": "noop", "fan_out": True}, {"processor": "noop"}]
REDUCE = {"type": "reduce", "processor": "noop", "fan_in": 2, "filename": "all"}


@dataclass
class Grid:
    """Workers that write to S3, and the scheduler's steps."""

    context: Context
    play: Play
    bucket: Bucket
    job_id: UUID

    async def steps(self) -> None:
        for step in (finish.step, chain.step, renew.step, chain.step):
            await step(self.context)
        await assert_invariants(self.play.database, self.job_id)

    async def claim(self, stage: int) -> tuple[UUID, list[ClaimedTask]]:
        worker_id = await self.play.register()
        return worker_id, await self.play.run(worker_id, self.job_id, stage, bundle=1)

    def place(self, task: ClaimedTask, name: str) -> Location:
        return self.context.settings.layout.attempt(task.job_id, task.stage, task.index, task.attempt, name)

    async def put(self, task: ClaimedTask, name: str, body: bytes) -> dict[str, Any]:
        uri = await self.bucket.put(self.place(task, name).key, body)
        return {"uri": uri, "bytes": len(body), "crc32": zlib.crc32(body)}

    async def make_files(self, worker_id: UUID, task: ClaimedTask, bodies: Sequence[bytes]) -> None:
        """A task's directory: each file becomes an item."""
        files = [{"type": "object", **await self.put(task, f"d/{n}", body)} for n, body in enumerate(bodies)]
        listing = "".join(json.dumps(file) + "\n" for file in files).encode()
        output = await self.put(task, "piecework-items.jsonl", listing) | {"items": len(files)}
        await self.play.complete(worker_id, finished(task, output=output), done=[task])

    async def make(self, worker_id: UUID, task: ClaimedTask, body: bytes) -> None:
        await self.play.complete(worker_id, finished(task, output=await self.put(task, "out", body)), done=[task])

    async def lose(self, worker_id: UUID, reader: ClaimedTask, *lost: LostOutput) -> None:
        await lose_inputs(self.play.database, worker_id, finished(reader, "released", lost=lost))
        await self.play.complete(worker_id, finished(reader, "released"), done=[reader])

    async def run_again(self, stage: int, index: int, attempt: int) -> tuple[UUID, ClaimedTask]:
        """A worker claims the one task that runs again."""
        worker_id, [task] = await self.claim(stage)
        assert (task.index, task.attempt) == (index, attempt)
        return worker_id, task

    async def listed(self, index: int) -> list[tuple[str, int | None]]:
        """The places and checksums of the outputs that a task of the reduce works on."""
        input = (await self.play.task(self.job_id, index, 1))["input"]
        body = await self.bucket.get(input["uri"])
        assert zlib.crc32(body) == input["crc32"]
        lines = [ListedOutput.from_json(json.loads(line)) for line in body.splitlines()]
        return [(line.location.uri, line.crc32) for line in lines if line.location]


def lost(stage: int, index: int, attempt: int, uri: str) -> LostOutput:
    return LostOutput(stage, index, attempt, uri)


@pytest.fixture
async def fan_out(context: Context, play: Play, bucket: Bucket) -> Grid:
    """Two directories of files are the items of a second stage."""
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 2)
    grid = Grid(context, play, bucket, job_id)
    worker_id, tasks = await grid.claim(0)
    for task in tasks:
        await grid.make_files(worker_id, task, [b"%d%d" % (task.index, n) for n in range(3)])
    await grid.steps()
    return grid


async def lose_file(grid: Grid) -> tuple[ClaimedTask, UUID, ClaimedTask]:
    """The reader of the last directory's second file can't read it; its maker is claimed again."""
    worker_id, tasks = await grid.claim(1)
    assert [task.input.crc32 for task in tasks[3:]] == [zlib.crc32(b"1%d" % n) for n in range(3)]  # type: ignore[union-attr]
    [reader] = tasks[4:5]
    uri = reader.input.location.uri  # type: ignore[union-attr]
    await grid.lose(worker_id, reader, lost(0, 1, 1, uri))
    await grid.steps()
    maker_id, maker = await grid.run_again(0, 1, 2)
    return reader, maker_id, maker


async def test_a_reader_of_a_file_goes_on_with_the_same_file_of_the_new_directory(fan_out: Grid, play: Play) -> None:
    reader, maker_id, maker = await lose_file(fan_out)
    await fan_out.make_files(maker_id, maker, [b"1%d" % n for n in range(3)])
    await fan_out.steps()
    await renew.step(fan_out.context)

    task = await play.task(fan_out.job_id, 4, 1)
    assert (task["state"], task["error"]) == ("ready", None)
    assert task["input"] == {
        "type": "object",
        "uri": fan_out.place(maker, "d/1").uri,
        "bytes": 2,
        "crc32": zlib.crc32(b"11"),
    }
    assert "/1-1/" in (await play.task(fan_out.job_id, 5, 1))["input"]["uri"]  # it was not lost
    [again] = (await fan_out.claim(1))[1]
    assert (again.index, again.attempt) == (reader.index, 2)


@pytest.mark.parametrize(
    "bodies", [[b"10", b"11", b"xx"], [b"10", b"11"], [b"10", b"11", b"12", b"13"], [b"10", b"xx", b"12"]]
)
async def test_items_that_differ_from_those_of_which_tasks_were_made_are_not_mixed_with_them(
    fan_out: Grid, play: Play, bodies: list[bytes]
) -> None:
    _, maker_id, maker = await lose_file(fan_out)
    await fan_out.make_files(maker_id, maker, bodies)
    await fan_out.steps()

    task = await play.task(fan_out.job_id, 4, 1)
    assert (task["state"], task["error"]["type"]) == ("failed", "input_lost")
    assert "task 0/1 has run again" in task["error"]["message"]
    await fan_out.steps()
    job = await play.job(fan_out.job_id)
    assert (job["state"], "task 0/1 has run again" in job["error"]["message"]) == ("failed", True)


async def test_a_listing_that_is_lost_before_its_items_become_tasks_is_made_again(
    context: Context, play: Play, bucket: Bucket
) -> None:
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 1)
    grid = Grid(context, play, bucket, job_id)
    worker_id, [task] = await grid.claim(0)
    await grid.make_files(worker_id, task, [b"a", b"b"])
    await bucket.put(grid.place(task, "piecework-items.jsonl").key, b"{}\n")
    await grid.steps()

    maker_id, maker = await grid.run_again(0, 0, 2)
    await grid.make_files(maker_id, maker, [b"A"])  # nothing was made of the former
    await grid.steps()
    [reader] = (await grid.claim(1))[1]
    assert reader.input.location == grid.place(maker, "d/0")  # type: ignore[union-attr]


async def test_a_listing_that_is_always_lost_fails_the_job(context: Context, play: Play, bucket: Bucket) -> None:
    job_id = await play.submit(stages=FAN_OUT)
    await play.plan(job_id, 1)
    grid = Grid(context, play, bucket, job_id)
    for _ in range(RERUNS_MAX + 1):
        worker_id, [task] = await grid.claim(0)
        await grid.make_files(worker_id, task, [b"a"])
        await bucket.delete(grid.place(task, "piecework-items.jsonl").uri)
        await grid.steps()
    job = await play.job(job_id)
    assert job["error"]["type"] == "split_failed"
    assert "is gone or damaged again, after task 0/0 has made it 4 times" in job["error"]["message"]


@pytest.fixture
async def reduce(context: Context, play: Play, bucket: Bucket) -> Grid:
    return await reducing(context, play, bucket)


async def reducing(context: Context, play: Play, bucket: Bucket) -> Grid:
    """Four outputs, reduced two by two."""
    job_id = await play.submit(merge=REDUCE)
    await play.plan(job_id, 4)
    grid = Grid(context, play, bucket, job_id)
    worker_id, tasks = await grid.claim(0)
    for task in tasks:
        await grid.make(worker_id, task, b"%d" % task.index)
    for _ in range(3):
        await grid.steps()
    return grid


async def test_a_reduce_gets_a_listing_with_the_new_outputs(reduce: Grid, play: Play) -> None:
    worker_id, tasks = await reduce.claim(1)
    before = await reduce.listed(1)
    await reduce.lose(worker_id, tasks[1], *(lost(0, n, 1, uri) for n, (uri, _) in enumerate(before, 2)))
    maker_id, makers = await reduce.claim(0)
    assert [task.index for task in makers] == [2, 3]
    await reduce.make(maker_id, makers[0], b"new")
    await reduce.steps()
    assert await reduce.listed(1) == before  # the other one is missing
    await reduce.make(maker_id, makers[1], b"too")
    await reduce.steps()

    assert await reduce.listed(1) == [
        (reduce.place(makers[0], "out").uri, zlib.crc32(b"new")),
        (reduce.place(makers[1], "out").uri, zlib.crc32(b"too")),
    ]
    [again] = (await reduce.claim(1))[1]
    assert (again.index, again.attempt) == (1, 2)


class Died(BaseException):
    """The process is gone."""


async def die_in_renewal(context: Context, point: int) -> bool:
    """Take the step in a scheduler that dies at this point: before or after one of its effects. False: it survives."""
    database = await connect_database(context.settings.database_url)
    passed = 0

    def die(moment: Moment, effect: Effect) -> None:
        nonlocal passed
        passed += 1
        if passed == point:
            raise Died

    effects.watch(die)
    try:
        await renew.step(replace(context, database=database))
    except Died:
        return True
    finally:
        effects.watch(None)
        database.terminate()
    return False


async def test_a_scheduler_may_die_at_any_point_of_a_renewal(context: Context, play: Play, bucket: Bucket) -> None:
    point, survived = 0, False
    while not survived:
        point += 1
        grid = await reducing(context, play, bucket)
        worker_id, tasks = await grid.claim(1)
        [(uri, _), kept] = await grid.listed(0)
        await grid.lose(worker_id, tasks[0], lost(0, 0, 1, uri))
        maker_id, maker = await grid.run_again(0, 0, 2)
        await grid.make(maker_id, maker, b"new")

        survived = not await die_in_renewal(context, point)
        await grid.steps()

        assert await grid.listed(0) == [(grid.place(maker, "out").uri, zlib.crc32(b"new")), kept]
        [again] = (await grid.claim(1))[1]
        assert (again.index, again.attempt) == (0, 2)
        await play.order(jobs.cancel_job, grid.job_id)
    assert point > 10


async def test_a_listing_itself_is_written_again(reduce: Grid, play: Play) -> None:
    worker_id, tasks = await reduce.claim(1)
    before = await reduce.listed(0)
    uri = tasks[0].input.location.uri  # type: ignore[union-attr]
    await reduce.bucket.delete(uri)
    await reduce.lose(worker_id, tasks[0], lost(1, -1, 0, uri))
    assert await play.states(reduce.job_id) == {"succeeded": 4}
    await reduce.steps()
    assert (await play.task(reduce.job_id, 0, 1))["input"]["uri"] != uri
    assert await reduce.listed(0) == before


async def test_an_upper_level_has_the_lower_one_made_again(
    reduce: Grid, context: Context, play: Play, bucket: Bucket
) -> None:
    worker_id, tasks = await reduce.claim(1)
    for task in tasks:
        await reduce.make(worker_id, task, b"lower")
    await reduce.steps()
    worker_id, [top] = await reduce.claim(1)
    [(uri, _), kept] = await reduce.listed(2)
    await reduce.lose(worker_id, top, lost(1, 0, 1, uri))
    await reduce.steps()
    maker_id, maker = await reduce.run_again(1, 0, 2)
    await reduce.make(maker_id, maker, b"again")
    await reduce.steps()
    assert await reduce.listed(2) == [(reduce.place(maker, "out").uri, zlib.crc32(b"again")), kept]

    worker_id, [top] = await reduce.claim(1)
    await reduce.make(worker_id, top, b"all")
    merger = Merger()
    assert (await finish_job(context, play, reduce.job_id, merger.step))["state"] == "succeeded"
    result = (await play.stage(reduce.job_id, 1))["result"]
    assert await bucket.get(result["files"][0]["uri"]) == b"all"


async def test_what_is_made_again_and_lost_before_its_reader_gets_it_is_made_once_more(
    fan_out: Grid, play: Play
) -> None:
    for attempt in range(2, RERUNS_MAX + 2):
        if attempt == 2:
            _, maker_id, maker = await lose_file(fan_out)
        else:
            maker_id, maker = await fan_out.run_again(0, 1, attempt)
        await fan_out.make_files(maker_id, maker, [b"1%d" % n for n in range(3)])
        await fan_out.bucket.delete(fan_out.place(maker, "piecework-items.jsonl").uri)
        await fan_out.steps()
    task = await play.task(fan_out.job_id, 4, 1)
    assert (task["state"], task["error"]["type"]) == ("failed", "input_lost")
    assert "after task 0/1 has made it 4 times" in task["error"]["message"]


@pytest.mark.parametrize("same", [True, False], ids=["the same", "others"])
async def test_joined_outputs_are_joined_again(context: Context, play: Play, bucket: Bucket, same: bool) -> None:
    resplit = {"type": "lines", "format": "jsonl", "part_bytes": 8}
    job_id = await play.submit(stages=[{"processor": "noop"}, {"processor": "noop", "resplit": resplit}])
    await play.plan(job_id, 2)
    grid, merger = Grid(context, play, bucket, job_id), Merger()
    worker_id, tasks = await grid.claim(0)
    for task in tasks:
        await grid.make(worker_id, task, b'{"n":%d}\n' % task.index)

    async def planned() -> bool:
        return bool((await play.stage(job_id, 1))["planned"])

    await drive(context, finish.step, merger.step, chain.step, until=planned)
    worker_id, readers = await grid.claim(1)
    assert len(readers) == 2
    joined = context.settings.layout.joined(job_id, 0)
    body = await bucket.get(joined.uri)
    await bucket.delete(joined.uri)
    await bucket.delete(grid.place(tasks[1], "out").uri)
    for reader in readers:
        await grid.lose(worker_id, reader, lost(0, -1, 0, joined.uri))
    assert (await play.stage(job_id, 0))["state"] == "merging"

    async def reopened() -> bool:
        return "ready" in await play.states(job_id)

    await drive(context, finish.step, merger.step, until=reopened)
    maker_id, maker = await grid.run_again(0, 1, 2)
    await grid.make(maker_id, maker, b'{"n":1}\n' if same else b'{"n":2}\n')

    async def renewed() -> bool:
        return not await play.database.fetchval("SELECT count(*) FROM lost_outputs WHERE waits")

    await drive(context, finish.step, merger.step, renew.step, until=renewed)
    if not same:
        failed = await play.task(job_id, 0, 1)
        assert (failed["state"], failed["error"]["type"]) == ("failed", "input_lost")
        assert failed["error"]["message"].startswith(
            "the outputs of stage 0 were made and joined again, and are others"
        )
        return
    assert await bucket.get(joined.uri) == body
    again = (await grid.claim(1))[1]
    assert [(task.index, task.attempt, task.input) for task in again] == [
        (reader.index, 2, reader.input) for reader in readers
    ]
    await assert_invariants(play.database, job_id)


async def test_a_job_that_has_failed_for_a_lost_output_goes_on_by_a_retry(fan_out: Grid, play: Play) -> None:
    worker_id, tasks = await fan_out.claim(1)
    await play.complete(worker_id, finished(tasks[4], "failed", retryable=False), done=[tasks[4]])
    for _ in range(3):
        await fan_out.steps()
    assert (await play.job(fan_out.job_id))["state"] == "failed"
    await play.order(jobs.retry_job, fan_out.job_id)

    _, maker_id, maker = await lose_file(fan_out)
    await fan_out.make_files(maker_id, maker, [b"1%d" % n for n in range(3)])
    await fan_out.steps()
    assert "/1-2/" in (await play.task(fan_out.job_id, 4, 1))["input"]["uri"]


async def test_a_job_does_not_end_before_what_runs_again_has_ended(
    context: Context, play: Play, bucket: Bucket
) -> None:
    """A reader looks again after a long time, and finds what it has missed: it is there again, or S3 was wrong."""
    job_id = await play.submit(stages=2)
    await play.plan(job_id, 1)
    grid, merger = Grid(context, play, bucket, job_id), Merger()
    worker_id, [task] = await grid.claim(0)
    await grid.make(worker_id, task, b"a")
    await grid.steps()
    worker_id, [reader] = await grid.claim(1)
    await grid.lose(worker_id, reader, lost(0, 0, 1, grid.place(task, "out").uri))
    maker_id, maker = await grid.run_again(0, 0, 2)
    await play.make_due(job_id)
    worker_id, [reader] = await grid.claim(1)
    await grid.make(worker_id, reader, b"b")
    for _ in range(3):
        await grid.steps()
        await merger.step(context)
    assert [(await play.stage(job_id, stage))["state"] for stage in (0, 1)] == ["running", "merging"]

    await grid.make(maker_id, maker, b"a")
    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
