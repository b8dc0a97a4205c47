"""Merging: the results are exactly what the winning attempts wrote, whoever merges, dies or interferes."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any
from uuid import UUID

import orjson
import pytest
from botocore.exceptions import ClientError

from services.common import jobs
from services.common.database import new_id
from services.common.layout import Layout, Location
from services.common.lifecycle import ClaimedTask, Finished
from services.scheduler import finish
from services.scheduler.loop import Grid
from services.scheduler.merges import concatenate as concatenate_module
from services.scheduler.merges import merge as merge_module
from services.scheduler.merges import multipart
from services.scheduler.merges.concatenate import Source, concatenate
from services.scheduler.merges.manifest import write_manifest
from services.scheduler.merges.merge import Merger
from tests.integration.common.play import Order, Play, assert_invariants, finished, until
from tests.integration.scheduler.conftest import Bucket, drive, finish_job

MIB = 1 << 20
CONCAT = {"type": "concat", "filename": "all.csv"}

# Concatenation.


class Parts:
    """The sizes of the parts that S3 gets, by number."""

    def __init__(self, s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.uploaded: dict[int, int] = {}
        self.copied: dict[int, int] = {}
        upload, copy = s3.upload_part, s3.upload_part_copy

        async def upload_part(**arguments: Any) -> Any:
            self.uploaded[arguments["PartNumber"]] = len(arguments["Body"])
            return await upload(**arguments)

        async def upload_part_copy(**arguments: Any) -> Any:
            first, _, last = arguments["CopySourceRange"].removeprefix("bytes=").partition("-")
            self.copied[arguments["PartNumber"]] = int(last) - int(first) + 1
            return await copy(**arguments)

        monkeypatch.setattr(s3, "upload_part", upload_part)
        monkeypatch.setattr(s3, "upload_part_copy", upload_part_copy)

    @property
    def sizes(self) -> list[int]:
        parts = self.uploaded | self.copied
        assert sorted(parts) == list(range(1, len(parts) + 1))
        return [parts[number] for number in sorted(parts)]


async def join(bucket: Bucket, pieces: Sequence[bytes], start: int = 0) -> bytes:
    """What `concatenate` makes of objects with these bytes, each taken from `start` on."""
    locations = [Location.parse(await bucket.put(f"piece/{n:04}", piece)) for n, piece in enumerate(pieces)]

    async def sources() -> AsyncIterator[Source]:
        for location, piece in zip(locations, pieces, strict=True):
            yield Source(location, start, len(piece))

    target = Location(bucket.name, "joined")
    size = await concatenate(bucket.s3, target, sources(), sum(map(len, pieces)))
    joined = await bucket.get(target.uri)
    assert (size, await bucket.unfinished_uploads()) == (len(joined), [])
    return joined


async def test_large_objects_are_copied_inside_s3_and_small_neighbours_are_coalesced(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(1)
    sizes = [6 * MIB, 100, 5 * MIB, 3 * MIB, 3 * MIB, 0, 3 * MIB, 7 * MIB, 1]
    pieces = [draw.randbytes(size) for size in sizes]
    parts = Parts(bucket.s3, monkeypatch)

    assert await join(bucket, pieces) == b"".join(pieces)

    assert all(size >= 5 * MIB for size in parts.sizes[:-1])
    assert sum(parts.copied.values()) >= 6 * MIB


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_the_sizes_no_byte_is_lost_and_no_part_is_too_small(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    for module in (concatenate_module, multipart):
        monkeypatch.setattr(module, "PART_BYTES_MIN", 10)
    monkeypatch.setattr(multipart, "PART_BYTES_MAX", 25)
    monkeypatch.setattr(concatenate_module, "COALESCED_BYTES", 16)
    draw = random.Random(seed)
    sizes = [draw.choice([0, 1, 3, 9, 10, 11, 15, 19, 20, 21, 25, 26, 60]) for _ in range(12)]
    pieces = [draw.randbytes(size) for size in sizes]
    parts = Parts(bucket.s3, monkeypatch)

    assert await join(bucket, pieces) == b"".join(pieces)

    assert all(size >= 10 for size in parts.sizes[:-1]), sizes
    assert all(size <= 25 for size in parts.copied.values()), sizes


async def test_nothing_joined_is_an_empty_object(bucket: Bucket) -> None:
    assert await join(bucket, []) == await join(bucket, [b"", b""]) == b""


async def test_only_the_named_bytes_of_each_object_are_taken(bucket: Bucket) -> None:
    assert await join(bucket, [b"h,1", b"h,22", b"h,"], start=2) == b"122"


# Whole jobs.


@pytest.fixture
async def merger() -> AsyncIterator[Merger]:
    merger = Merger()
    yield merger
    await merger.stop()


@pytest.fixture
async def merger2() -> AsyncIterator[Merger]:
    """Of a second scheduler."""
    merger = Merger()
    yield merger
    await merger.stop()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge_module, "PUT_OFF_SECONDS", 0.0)


@pytest.fixture
def layout(grid: Grid) -> Layout:
    return Layout(grid.settings.bucket, grid.settings.prefix)


async def write(bucket: Bucket, layout: Layout, task: ClaimedTask, body: bytes, **facts: Any) -> Finished:
    """The report of an attempt that wrote these bytes."""
    location = layout.attempt(task.job_id, task.stage, task.index, task.attempt, "out.csv")
    output = {"uri": await bucket.put(location.key, body), "bytes": len(body)} | facts
    return finished(task, output=output)


async def run_stage(
    play: Play, bucket: Bucket, layout: Layout, job_id: UUID, bodies: Sequence[bytes], stage: int = 0, **facts: Any
) -> list[ClaimedTask]:
    """Every ready task of the stage succeeds, and writes its own of these bodies."""
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, stage)
    reports = [await write(bucket, layout, task, bodies[task.index], **facts) for task in tasks]
    assert await play.complete(worker_id, *reports, done=tasks) == len(tasks)
    return tasks


async def submit(play: Play, tasks: int, **changes: Any) -> UUID:
    job_id = await play.submit(**changes)
    await play.plan(job_id, tasks)
    return job_id


async def results(play: Play, job_id: UUID, stage: int = 0) -> dict[str, Any]:
    result: dict[str, Any] = (await play.stage(job_id, stage))["result"]
    return result


async def read(bucket: Bucket, result: dict[str, Any]) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a result by name, and the manifest; each is as large as the result says."""
    files = {file["name"]: await bucket.get(file["uri"]) for file in result["files"]}
    assert {file["name"]: file["bytes"] for file in result["files"]} == {n: len(body) for n, body in files.items()}
    manifest = await bucket.get(result["manifest"]["uri"])
    assert len(manifest) == result["manifest"]["bytes"]
    parsed: dict[str, Any] = orjson.loads(manifest)
    assert parsed["files"] == result["files"]
    return files, parsed


async def test_without_a_merge_the_outputs_are_the_results(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 3, name="nightly")
    bodies = [b"zero", b"one", b""]
    await run_stage(play, bucket, layout, job_id, bodies, records=2)

    job = await finish_job(grid, play, job_id, merger.step)

    assert (job["state"], (await play.stage(job_id))["state"]) == ("succeeded", "succeeded")
    result = await results(play, job_id)
    files, manifest = await read(bucket, result)
    assert files == {"00000000.csv": b"zero", "00000001.csv": b"one", "00000002.csv": b""}
    assert result["manifest"]["uri"] == layout.result(job_id, "manifest.json").uri
    assert (manifest["job_id"], manifest["name"]) == (str(job_id), "nightly")
    assert manifest["totals"] == {"parts": 3, "bytes": 7, "records": 6}
    assert manifest["parts"] == [
        {
            "index": index,
            "attempt": 1,
            "uri": layout.attempt(job_id, 0, index, 1, "out.csv").uri,
            "bytes": len(bodies[index]),
            "records": 2,
        }
        for index in range(3)
    ]


async def test_small_values_are_in_the_manifest(grid: Grid, play: Play, bucket: Bucket, merger: Merger) -> None:
    job_id = await submit(play, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    outputs = [{"value": {"n": 1}}, {"value": None}, None]
    reports = [finished(task, output=output) for task, output in zip(tasks, outputs, strict=True)]
    await play.complete(worker_id, *reports, done=tasks)

    await finish_job(grid, play, job_id, merger.step)

    files, manifest = await read(bucket, await results(play, job_id))
    assert files == {}
    assert [part.get("value") for part in manifest["parts"]] == [{"n": 1}, None, None]
    assert manifest["totals"] == {"parts": 3, "bytes": 0, "records": 0}


async def test_very_many_parts_are_listed_by_the_manifest_only(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "FILES_MAX", 2)
    few, many = await submit(play, 2), await submit(play, 3)
    for job_id in (few, many):
        await run_stage(play, bucket, layout, job_id, [b"a", b"b", b"c"])
        await finish_job(grid, play, job_id, merger.step)

    assert len((await results(play, few))["files"]) == 2
    files, manifest = await read(bucket, await results(play, many))
    assert (files, len(manifest["parts"])) == ({}, 3)


@pytest.mark.parametrize(
    ("bodies", "header_bytes", "joined"),
    [
        ([b"a\n", b"", b"b\n"], None, b"a\nb\n"),
        ([b"h\n1\n", b"h\n2\n", b"h\n", b"h\n3\n"], 2, b"h\n1\n2\n3\n"),
        ([b"", b"h\n", b"", b"h\n1\n", b"h\n2\n"], 2, b"h\n1\n2\n"),
        ([b"h\n", b"h\n"], 2, b"h\n"),
        ([b"", b""], None, b""),
        ([], None, b""),
    ],
)
async def test_concatenation_keeps_the_order_and_one_header(
    grid: Grid,
    play: Play,
    bucket: Bucket,
    layout: Layout,
    merger: Merger,
    bodies: list[bytes],
    header_bytes: int | None,
    joined: bytes,
) -> None:
    job_id = await submit(play, len(bodies), merge=CONCAT)
    await run_stage(play, bucket, layout, job_id, bodies, **({"header_bytes": header_bytes} if header_bytes else {}))

    await finish_job(grid, play, job_id, merger.step)

    result = await results(play, job_id)
    files, manifest = await read(bucket, result)
    assert files == {"all.csv": joined}
    assert result["files"][0]["uri"] == layout.result(job_id, "all.csv").uri
    assert manifest["totals"]["parts"] == len(bodies)


async def test_results_are_those_of_winning_attempts_and_leave_out_tolerated_failures(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 3, merge=CONCAT, stages=[{"processor": "noop", "tolerated_failures": 1}])
    lost = await play.register()
    stale = [await write(bucket, layout, task, b"stale") for task in await play.run(lost, job_id)]
    await play.lose(lost)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    good = [await write(bucket, layout, task, b"good%d\n" % task.index) for task in tasks[:2]]
    assert await play.complete(lost, *stale) == 0
    await play.complete(worker_id, *good, finished(tasks[2], "failed", retryable=False), done=tasks)

    await finish_job(grid, play, job_id, merger.step)

    files, manifest = await read(bucket, await results(play, job_id))
    assert files == {"all.csv": b"good0\ngood1\n"}
    assert [(part["index"], part["attempt"]) for part in manifest["parts"]] == [(0, 2), (1, 2)]


async def test_rejects_of_all_stages_become_one_file(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 3, stages=2)
    worker_id = await play.register()
    for stage in (0, 1):
        tasks = await play.run(worker_id, job_id, stage)
        reports = []
        for task in tasks:
            rejects = b'{"stage": %d, "index": %d}\n' % (stage, task.index)
            place = layout.attempt(job_id, stage, task.index, task.attempt, "rejects.jsonl")
            facts = {"rejects": await bucket.put(place.key, rejects), "rejects_bytes": len(rejects)}
            reports.append(await write(bucket, layout, task, b"x", **(facts if task.index != 1 else {})))
        await play.complete(worker_id, *reports, done=tasks)
        await finish.step(grid)

    await finish_job(grid, play, job_id, merger.step)

    files, _ = await read(bucket, await results(play, job_id, 1))
    rejected = [orjson.loads(line) for line in files["rejects.jsonl"].splitlines()]
    assert rejected == [{"stage": stage, "index": index} for stage in (0, 1) for index in (0, 2)]


# Reduce.


def reduce(**changes: Any) -> dict[str, Any]:
    return {"type": "reduce", "processor": "noop"} | changes


async def test_a_reduce_works_on_a_listing_of_all_outputs_and_its_output_is_the_result(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 3, merge=reduce(), stages=[{"processor": "noop", "tolerated_failures": 1}])
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    written = await write(bucket, layout, tasks[0], b"zero")
    failed = finished(tasks[1], "failed", retryable=False)
    await play.complete(worker_id, written, failed, finished(tasks[2], output={"value": [2]}), done=tasks)

    async def reducing() -> bool:
        return bool((await play.stage(job_id, 1))["state"] == "running")

    await drive(grid, finish.step, merger.step, until=reducing)
    assert await play.states(job_id, 1) == {"ready": 1}
    await assert_invariants(play.pool, job_id)
    source = (await play.task(job_id, 0, 1))["input"]
    assert source == {"type": "outputs", "uri": layout.outputs(job_id, 0).uri}
    assert [orjson.loads(line) for line in (await bucket.get(source["uri"])).splitlines()] == [
        {"index": 0, "attempt": 1, "uri": layout.attempt(job_id, 0, 0, 1, "out.csv").uri},
        {"index": 2, "attempt": 1, "value": [2]},
    ]

    await run_stage(play, bucket, layout, job_id, [b"sum"], stage=1)
    job = await finish_job(grid, play, job_id, merger.step)

    assert job["state"] == "succeeded"
    files, manifest = await read(bucket, await results(play, job_id, 1))
    assert files == {"out.csv": b"sum"}
    assert [part["uri"] for part in manifest["parts"]] == [layout.attempt(job_id, 1, 0, 1, "out.csv").uri]


@pytest.mark.parametrize("tasks", [0, 1])
async def test_a_reduced_result_may_have_a_name_of_its_own(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, tasks: int
) -> None:
    job_id = await submit(play, tasks, merge=reduce(filename="summary.json"))
    await run_stage(play, bucket, layout, job_id, [b"zero"])

    async def reducing() -> bool:
        return (await play.states(job_id, 1)) == {"ready": 1}

    await drive(grid, finish.step, merger.step, until=reducing)
    await run_stage(play, bucket, layout, job_id, [b"sum"], stage=1)
    await finish_job(grid, play, job_id, merger.step)

    files, _ = await read(bucket, await results(play, job_id, 1))
    assert files == {"summary.json": b"sum"}


async def test_a_reduce_that_fails_fails_the_job_and_can_be_retried_alone(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 2, merge=reduce())
    await run_stage(play, bucket, layout, job_id, [b"a", b"b"])

    async def reducing() -> bool:
        return (await play.states(job_id, 1)) == {"ready": 1}

    await drive(grid, finish.step, merger.step, until=reducing)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, 1)
    await play.complete(worker_id, finished(tasks[0], "failed", retryable=False), done=tasks)
    job = await finish_job(grid, play, job_id, merger.step)
    assert (job["state"], job["error"]["type"], job["error"]["stage"]) == ("failed", "stage_failed", 1)

    await play.order(jobs.retry_job, job_id)
    await run_stage(play, bucket, layout, job_id, [b"sum"], stage=1)

    assert (await finish_job(grid, play, job_id, merger.step))["state"] == "succeeded"
    assert await play.outcomes(job_id) == {"succeeded": 3, "failed": 1}
    assert (await read(bucket, await results(play, job_id, 1)))[0] == {"out.csv": b"sum"}


# What goes wrong.


async def concatenated(play: Play, bucket: Bucket, layout: Layout, bodies: Sequence[bytes]) -> UUID:
    """A job whose outputs wait to be concatenated."""
    job_id = await submit(play, len(bodies), merge=CONCAT)
    await run_stage(play, bucket, layout, job_id, bodies)
    return job_id


async def test_an_output_that_has_vanished_fails_the_job_and_says_so(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"b"])
    await bucket.delete(layout.attempt(job_id, 0, 1, 1, "out.csv").uri)

    job = await finish_job(grid, play, job_id, merger.step)

    assert (job["state"], job["error"]["type"], job["error"]["stage"]) == ("failed", "merge_failed", 0)
    assert "an output can't be read" in job["error"]["message"]
    assert await bucket.unfinished_uploads() == []

    await bucket.put(layout.attempt(job_id, 0, 1, 1, "out.csv").key, b"b")
    await play.order(jobs.retry_job, job_id)
    assert (await finish_job(grid, play, job_id, merger.step))["state"] == "succeeded"
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_an_output_that_has_become_shorter_fails_the_job(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"bbb"])
    await bucket.put(layout.attempt(job_id, 0, 1, 1, "out.csv").key, b"b")

    job = await finish_job(grid, play, job_id, merger.step)

    assert (job["state"], job["error"]["type"]) == ("failed", "merge_failed")


async def test_a_result_of_too_many_parts_fails_the_job_with_the_mend(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (concatenate_module, multipart):
        monkeypatch.setattr(module, "PART_BYTES_MIN", 10)
        monkeypatch.setattr(module, "PARTS_MAX", 2)
    job_id = await concatenated(play, bucket, layout, [b"x" * 10] * 3)

    job = await finish_job(grid, play, job_id, merger.step)

    assert (job["state"], job["error"]["type"]) == ("failed", "merge_failed")
    assert "use larger parts" in job["error"]["message"]
    assert await bucket.unfinished_uploads() == []


async def test_a_merge_that_breaks_in_an_unforeseen_way_fails_its_job(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(merge_module, "write_manifest", broken)
    job_id = await concatenated(play, bucket, layout, [b"a"])

    job = await finish_job(grid, play, job_id, merger.step)

    assert (job["error"]["type"], "surprise" in job["error"]["message"]) == ("merge_failed", True)


async def test_an_outage_of_s3_puts_the_merge_off(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"b"])
    plain = grid.aws.s3.put_object
    down = [ClientError({"Error": {"Code": "SlowDown", "Message": ""}}, "PutObject"), OSError("unreachable")]

    async def put_object(**arguments: Any) -> Any:
        if down:
            raise down.pop()
        return await plain(**arguments)

    monkeypatch.setattr(grid.aws.s3, "put_object", put_object)

    assert (await finish_job(grid, play, job_id, merger.step))["state"] == "succeeded"
    assert not down
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_a_merge_that_dies_is_done_again_and_leaves_no_unfinished_upload(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger2: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (concatenate_module, multipart):
        monkeypatch.setattr(module, "PART_BYTES_MIN", 10)
    job_id = await concatenated(play, bucket, layout, [b"x" * 30, b"y" * 30])
    died = asyncio.Event()

    async def hang(**_: Any) -> None:
        died.set()
        await asyncio.Event().wait()

    async def nothing(**_: Any) -> None:
        """A process that is killed aborts nothing."""

    with monkeypatch.context() as dying:
        dying.setattr(grid.aws.s3, "complete_multipart_upload", hang)
        dying.setattr(grid.aws.s3, "abort_multipart_upload", nothing)
        merger = Merger()

        async def hanging() -> bool:
            return died.is_set()

        await drive(grid, finish.step, merger.step, until=hanging)
        await merger.stop()
    assert await bucket.unfinished_uploads() == [layout.result(job_id, "all.csv").key]

    assert (await finish_job(grid, play, job_id, merger2.step))["state"] == "succeeded"
    assert await bucket.unfinished_uploads() == []
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"x" * 30 + b"y" * 30}


async def test_a_merge_that_is_stopped_leaves_nothing_behind(
    grid: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (concatenate_module, multipart):
        monkeypatch.setattr(module, "PART_BYTES_MIN", 10)
    job_id = await concatenated(play, bucket, layout, [b"x" * 30, b"y" * 30])
    reached = asyncio.Event()

    async def hang(**_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as hanging:
        hanging.setattr(grid.aws.s3, "complete_multipart_upload", hang)

        async def under_way() -> bool:
            return reached.is_set()

        await drive(grid, finish.step, merger.step, until=under_way)
        assert await bucket.unfinished_uploads() != []
        await merger.stop()

    assert await bucket.unfinished_uploads() == []
    assert (await play.stage(job_id))["state"] == "merging"
    assert (await finish_job(grid, play, job_id, merger.step))["state"] == "succeeded"


async def add_endpoint(play: Play) -> None:
    await play.pool.execute(
        "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'https://example.com', 's')", new_id()
    )


async def test_two_schedulers_merge_each_job_once(
    grid: Grid, other: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, merger2: Merger
) -> None:
    await add_endpoint(play)
    merging = [await concatenated(play, bucket, layout, [b"a%d" % n, b"b"]) for n in range(6)]

    async def ended() -> bool:
        await asyncio.gather(finish.step(grid), finish.step(other), merger.step(grid), merger2.step(other))
        states = [(await play.job(job_id))["state"] for job_id in merging]
        return states == ["succeeded"] * 6

    await until(ended)

    for n, job_id in enumerate(merging):
        assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"a%db" % n}
        await assert_invariants(play.pool, job_id)
    deliveries = await play.pool.fetch("SELECT job_id, event, payload FROM webhook_deliveries")
    assert sorted(row["job_id"] for row in deliveries) == sorted(merging)
    for row in deliveries:
        assert row["event"] == "job.succeeded"
        assert row["payload"]["data"]["results"] == (await results(play, row["job_id"]))["manifest"]


def while_merging(monkeypatch: pytest.MonkeyPatch, interfere: Any) -> None:
    """`interfere` happens once, when all results but the manifest are written."""
    plain = write_manifest

    async def interfered(*arguments: Any) -> Any:
        monkeypatch.setattr(merge_module, "write_manifest", plain)
        await interfere()
        return await plain(*arguments)

    monkeypatch.setattr(merge_module, "write_manifest", interfered)


@pytest.mark.parametrize(
    ("order", "undo", "state"),
    [(jobs.cancel_job, jobs.retry_job, "cancelled"), (jobs.pause_job, jobs.resume_job, "paused")],
)
async def test_an_order_that_comes_while_a_merge_is_under_way_counts(
    grid: Grid,
    play: Play,
    bucket: Bucket,
    layout: Layout,
    merger: Merger,
    monkeypatch: pytest.MonkeyPatch,
    order: Order,
    undo: Order,
    state: str,
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"b"])
    while_merging(monkeypatch, lambda: play.order(order, job_id))

    async def obeyed() -> bool:
        return bool((await play.job(job_id))["state"] == state) and not merger._running

    await drive(grid, finish.step, merger.step, until=obeyed)
    assert await results(play, job_id) is None

    await play.order(undo, job_id)
    assert (await finish_job(grid, play, job_id, merger.step))["state"] == "succeeded"
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_a_merge_that_has_missed_a_retry_does_not_end_the_job(
    grid: Grid, other: Grid, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows only of the outputs from before; the retry has added one."""
    job_id = await submit(play, 2, merge=CONCAT, stages=[{"processor": "noop", "tolerated_failures": 1}])
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    report = await write(bucket, layout, tasks[0], b"a")
    await play.complete(worker_id, report, finished(tasks[1], "failed", retryable=False), done=tasks)

    async def retry() -> None:
        await play.order(jobs.cancel_job, job_id)
        await finish_job(other, play, job_id)
        await play.order(jobs.retry_job, job_id)
        await run_stage(play, bucket, layout, job_id, [b"", b"b"])
        await finish.step(other)
        assert (await play.stage(job_id))["state"] == "merging"

    while_merging(monkeypatch, retry)

    async def succeeded() -> bool:
        return bool((await play.job(job_id))["state"] == "succeeded")

    await drive(grid, finish.step, merger.step, until=succeeded)

    files, manifest = await read(bucket, await results(play, job_id))
    assert files == {"all.csv": b"ab"}
    assert len(manifest["parts"]) == 2
