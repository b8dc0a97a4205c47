"""Merging: the results are exactly what the winning attempts wrote, whoever merges, dies or interferes."""

import asyncio
import base64
import zlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest
from botocore.exceptions import ClientError

from services.contract.layout import Layout
from services.contract.location import Location
from services.engine import jobs
from services.engine.attempt import AttemptReport, ClaimedTask
from services.platform import multipart
from services.platform.database import new_id
from services.scheduler import put_off
from services.scheduler.loop import Context
from services.scheduler.loops import chain, finish, renew
from services.scheduler.merges import merge as merge_module
from services.scheduler.merges import results as results_module
from services.scheduler.merges.manifest import write_manifest
from services.scheduler.merges.merge import Merger
from tests.integration.engine.play import Order, Play, add_processor, finished
from tests.integration.scheduler.conftest import Bucket, drive, finish_job
from tests.invariants import assert_invariants
from tests.until import until

CONCAT = {"type": "concat", "filename": "all.csv"}


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
    monkeypatch.setattr(put_off, "PUT_OFF_SECONDS", 0.0)


@pytest.fixture
def layout(context: Context) -> Layout:
    return Layout(context.settings.bucket, context.settings.prefix)


async def write(
    bucket: Bucket, layout: Layout, task: ClaimedTask, body: bytes, header_bytes: int | None = None, **measures: int
) -> AttemptReport:
    """The report of an attempt that wrote these bytes."""
    output = await put_output(bucket, layout, task, "out.csv", body, header_bytes)
    return finished(task, output=output, **measures)


async def put_output(
    bucket: Bucket, layout: Layout, task: ClaimedTask, filename: str, body: bytes, header_bytes: int | None = None
) -> dict[str, Any]:
    """Write an output as a worker does; returns what it says of it, as if no line end belonged behind it."""
    location = layout.attempt(task.job_id, task.stage, task.index, task.attempt, filename)
    output: dict[str, Any] = {"uri": await bucket.put(location.key, body), "bytes": len(body)}
    output |= {"crc32": zlib.crc32(body), "missing_end": ""}
    if header_bytes is None:
        return output
    return output | {"header_bytes": header_bytes, "header_crc32": zlib.crc32(body[:header_bytes])}


def checksum(body: bytes) -> str:
    """As S3 writes it."""
    return base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()


async def run_stage(
    play: Play, bucket: Bucket, layout: Layout, job_id: UUID, bodies: Sequence[bytes], stage: int = 0, **how: Any
) -> list[ClaimedTask]:
    """Every ready task of the stage succeeds, and writes its own of these bodies."""
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, stage)
    reports = [await write(bucket, layout, task, bodies[task.index], **how) for task in tasks]
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
    manifest = await bucket.get(result["manifest"]["uri"])
    for file in [*result["files"], result["manifest"]]:
        body = files.get(file["name"], manifest)
        assert (file["bytes"], file["checksum_crc32"]) == (len(body), checksum(body)), file
    parsed: dict[str, Any] = orjson.loads(manifest)
    assert parsed["files"] == result["files"]
    return files, parsed


async def test_without_a_merge_the_outputs_are_the_results(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 3, name="nightly")
    bodies = [b"zero", b"one", b""]
    await run_stage(play, bucket, layout, job_id, bodies, records_in=3, records_out=2, records_rejected=1)

    job = await finish_job(context, play, job_id, merger.step)

    assert (job["state"], (await play.stage(job_id))["state"]) == ("succeeded", "succeeded")
    result = await results(play, job_id)
    files, manifest = await read(bucket, result)
    assert files == {"00000000.csv": b"zero", "00000001.csv": b"one", "00000002.csv": b""}
    assert result["manifest"]["uri"] == layout.result(job_id, "manifest.json").uri
    assert (manifest["job_id"], manifest["name"]) == (str(job_id), "nightly")
    counts = {"in": 3, "out": 2, "rejected": 1, "filtered": 0, "added": 0}
    assert manifest["parts"] == [
        {
            "index": index,
            "attempt": 1,
            "uri": layout.attempt(job_id, 0, index, 1, "out.csv").uri,
            "bytes": len(bodies[index]),
            "checksum_crc32": checksum(bodies[index]),
            "records": counts,
        }
        for index in range(3)
    ]
    sums = {name: 3 * count for name, count in counts.items()}
    assert manifest["totals"] == {"parts": 3, "bytes": 7, "records": sums}
    [stage] = manifest["stages"]
    assert (stage["name"], stage["records"], manifest["warnings"]) == ("stage-0", sums | {"balanced": True}, [])


async def test_records_that_do_not_come_out_even_are_said_in_the_manifest(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    await add_processor(play.database, "filter", builtin="noop", filters=True)
    job_id = await submit(play, 2, stages=[{"processor": "noop"}, {"processor": "filter"}])
    await run_stage(play, bucket, layout, job_id, [b"a", b"b"], records_in=50, records_out=49)
    await run_stage(
        play, bucket, layout, job_id, [b"c", b"d"], stage=1, records_in=49, records_out=9, records_filtered=40
    )

    await finish_job(context, play, job_id, merger.step)

    _, manifest = await read(bucket, await results(play, job_id, 1))
    assert [stage["records"]["balanced"] for stage in manifest["stages"]] == [False, True]
    assert manifest["warnings"] == ["stage stage-0: 100 records in, 98 out, 0 rejected: 2 are unaccounted for"]


async def test_small_values_are_in_the_manifest(context: Context, play: Play, bucket: Bucket, merger: Merger) -> None:
    job_id = await submit(play, 3)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    outputs = [{"value": {"n": 1}}, {"value": None}, None]
    reports = [finished(task, output=output) for task, output in zip(tasks, outputs, strict=True)]
    await play.complete(worker_id, *reports, done=tasks)

    await finish_job(context, play, job_id, merger.step)

    files, manifest = await read(bucket, await results(play, job_id))
    assert files == {}
    assert [part.get("value") for part in manifest["parts"]] == [{"n": 1}, None, None]
    assert manifest["totals"] == {"parts": 3, "bytes": 0, "records": None}
    assert manifest["stages"][0]["records"]["balanced"] is None


async def test_very_many_parts_are_listed_by_the_manifest_only(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "FILES_MAX", 2)
    few, many = await submit(play, 2), await submit(play, 3)
    for job_id in (few, many):
        await run_stage(play, bucket, layout, job_id, [b"a", b"b", b"c"])
        await finish_job(context, play, job_id, merger.step)

    assert len((await results(play, few))["files"]) == 2
    files, manifest = await read(bucket, await results(play, many))
    assert (files, len(manifest["parts"])) == ({}, 3)


@pytest.mark.both_emulators()
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
    context: Context,
    play: Play,
    bucket: Bucket,
    layout: Layout,
    merger: Merger,
    bodies: list[bytes],
    header_bytes: int | None,
    joined: bytes,
) -> None:
    job_id = await submit(play, len(bodies), merge=CONCAT)
    await run_stage(play, bucket, layout, job_id, bodies, header_bytes=header_bytes)

    await finish_job(context, play, job_id, merger.step)

    result = await results(play, job_id)
    files, manifest = await read(bucket, result)
    assert files == {"all.csv": joined}
    assert result["files"][0]["uri"] == layout.result(job_id, "all.csv").uri
    assert manifest["totals"]["parts"] == len(bodies)


async def test_no_two_lines_become_one_whichever_release_put_them(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    """A worker of an earlier release does not tell how its output begins and ends."""
    bodies = [b"\xef\xbb\xbfa", b"\xef\xbb\xbfb\r\nc", b"", b"\xef\xbb\xbf", b"d\n", b"e"]
    job_id = await submit(play, len(bodies), merge=CONCAT)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    reports = [await write(bucket, layout, task, bodies[task.index]) for task in tasks]
    told = {"missing_end": b"\r\n".hex(), "mark": b"\xef\xbb\xbf".hex()}
    for report in reports:
        assert report.output
        del report.output["missing_end"]
        report.output |= told if report.index == 1 else {}
    await play.complete(worker_id, *reports, done=tasks)

    await finish_job(context, play, job_id, merger.step)

    result = await results(play, job_id)
    joined = b"\xef\xbb\xbfa\nb\r\nc\r\nd\ne"
    assert (await read(bucket, result))[0] == {"all.csv": joined}
    assert result["files"][0]["checksum_crc32"] == checksum(joined)


async def test_results_are_those_of_winning_attempts_and_leave_out_tolerated_failures(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
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

    await finish_job(context, play, job_id, merger.step)

    files, manifest = await read(bucket, await results(play, job_id))
    assert files == {"all.csv": b"good0\ngood1\n"}
    said = "stage stage-0: 1 task failed and was tolerated; its records are not in the results"
    assert manifest["warnings"] == [said]
    assert [(part["index"], part["attempt"]) for part in manifest["parts"]] == [(0, 2), (1, 2)]


@pytest.mark.parametrize(
    "place", [None, "s3://{bucket}-theirs/claims", "s3://{bucket}-theirs/claims/", "s3://{bucket}-theirs/"]
)
async def test_rejects_of_all_stages_become_one_file_beside_the_results(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, place: str | None
) -> None:
    if place is not None:
        place = place.format(bucket=bucket.name)
        await bucket.s3.create_bucket(Bucket=Location.parse(place).bucket)
    job_id = await submit(play, 3, stages=2, merge=CONCAT, results=place)
    worker_id = await play.register()
    for stage in (0, 1):
        tasks = await play.run(worker_id, job_id, stage)
        reports = []
        for task in tasks:
            report = await write(bucket, layout, task, b"x")
            if task.index != 1:
                rejects = b'{"stage": %d, "index": %d}\n' % (stage, task.index)
                put = await put_output(bucket, layout, task, "rejects.jsonl", rejects)
                names = {"uri": "rejects", "bytes": "rejects_bytes", "crc32": "rejects_crc32"}
                report.output = (report.output or {}) | {names[name]: put[name] for name in names}
            reports.append(report)
        await play.complete(worker_id, *reports, done=tasks)
        await finish.step(context)

    await finish_job(context, play, job_id, merger.step)

    result = await results(play, job_id, 1)
    files, manifest = await read(bucket, result)
    assert files["all.csv"] == b"xxx"
    rejected = [orjson.loads(line) for line in files["rejects.jsonl"].splitlines()]
    assert rejected == [{"stage": stage, "index": index} for stage in (0, 1) for index in (0, 2)]
    assert [part.get("rejects", {}).get("bytes") for part in manifest["parts"]] == [len(rejects), None, len(rejects)]
    folder = layout.result(job_id, "").uri if place is None else f"{place.rstrip('/')}/{job_id}/"
    uris = [file["uri"] for file in (*result["files"], result["manifest"])]
    assert uris == [f"{folder}{name}" for name in ("all.csv", "rejects.jsonl", "manifest.json")]


async def write_with_further(bucket: Bucket, layout: Layout, task: ClaimedTask, body: bytes) -> AttemptReport:
    """The report of an attempt that wrote an output, a CSV of errors and a summary beside it."""
    report = await write(bucket, layout, task, body)
    errors = await put_output(bucket, layout, task, "errors.csv", b"e\n%b\n" % body, header_bytes=2)
    summary = await put_output(bucket, layout, task, "sum.json", b"[%b]" % body)
    if task.index == 1:
        del summary["crc32"]
    assert report.output is not None
    report.output["files"] = {"errors": errors, "summary": summary}
    return report


FURTHER = {"errors": "errors.csv", "summary": "sum.json"}


@pytest.mark.parametrize("merge", ["none", "concat"])
async def test_further_outputs_become_results_of_their_own(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, merge: str
) -> None:
    await add_processor(play.database, "split-off", builtin="noop", outputs=FURTHER)
    job_id = await submit(play, 2, merge={"type": merge}, stages=[{"processor": "split-off"}])
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id)
    reports = [await write_with_further(bucket, layout, task, b"%d" % task.index) for task in tasks]
    await play.complete(worker_id, *reports, done=tasks)

    await finish_job(context, play, job_id, merger.step)

    result = await results(play, job_id)
    files = {file["name"]: await bucket.get(file["uri"]) for file in result["files"]}
    if merge == "none":
        assert files == {
            "00000000.csv": b"0",
            "00000000-errors.csv": b"e\n0\n",
            "00000000-sum.json": b"[0]",
            "00000001.csv": b"1",
            "00000001-errors.csv": b"e\n1\n",
            "00000001-sum.json": b"[1]",
        }
        return
    assert files == {"result": b"01", "errors.csv": b"e\n0\n1\n", "sum.json": b"[0][1]"}
    checksums = {file["name"]: file["checksum_crc32"] for file in result["files"]}
    assert checksums == {"result": checksum(b"01"), "errors.csv": checksum(b"e\n0\n1\n"), "sum.json": None}


# Reduce.


def reduce(**changes: Any) -> dict[str, Any]:
    return {"type": "reduce", "processor": "noop"} | changes


@pytest.mark.parametrize("filename", [None, "summary.json"])
async def test_what_the_last_task_of_a_reduce_makes_is_the_result(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, filename: str | None
) -> None:
    await add_processor(play.database, "sum", builtin="noop", outputs=FURTHER)
    job_id = await submit(play, 3, merge=reduce(processor="sum", fan_in=2, filename=filename))
    await run_stage(play, bucket, layout, job_id, [b"zero", b"one", b"two"])
    worker_id = await play.register()
    for first, last in ((0, 1), (2, 2)):

        async def level(last: int = last) -> bool:
            return bool((await play.stage(job_id, 1))["task_count"] > last)

        await drive(context, finish.step, chain.step, until=level)
        tasks = await play.run(worker_id, job_id, 1)
        assert [task.index for task in tasks] == list(range(first, last + 1))
        reports = [await write_with_further(bucket, layout, task, b"%d" % task.index) for task in tasks]
        await play.complete(worker_id, *reports, done=tasks)

    job = await finish_job(context, play, job_id, chain.step, merger.step)

    assert job["state"] == "succeeded"
    files, manifest = await read(bucket, await results(play, job_id, 1))
    assert files == {filename or "out.csv": b"2", "errors.csv": b"e\n2\n", "sum.json": b"[2]"}
    assert [part["uri"] for part in manifest["parts"]] == [
        layout.attempt(job_id, 0, index, 1, "out.csv").uri for index in range(3)
    ]


async def test_a_reduce_that_fails_fails_the_job_and_can_be_retried_alone(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 2, merge=reduce())
    await run_stage(play, bucket, layout, job_id, [b"a", b"b"])

    async def reducing() -> bool:
        return (await play.states(job_id, 1)) == {"ready": 1}

    await drive(context, finish.step, chain.step, until=reducing)
    worker_id = await play.register()
    tasks = await play.run(worker_id, job_id, 1)
    await play.complete(worker_id, finished(tasks[0], "failed", retryable=False), done=tasks)
    job = await finish_job(context, play, job_id, merger.step)
    assert (job["state"], job["error"]["type"], job["error"]["stage"]) == ("failed", "stage_failed", 1)

    await play.order(jobs.retry_job, job_id)
    await run_stage(play, bucket, layout, job_id, [b"sum"], stage=1)

    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
    assert await play.outcomes(job_id) == {"succeeded": 3, "failed": 1}
    assert (await read(bucket, await results(play, job_id, 1)))[0] == {"out.csv": b"sum"}


# What goes wrong.


async def concatenated(play: Play, bucket: Bucket, layout: Layout, bodies: Sequence[bytes]) -> UUID:
    """A job whose outputs wait to be concatenated."""
    job_id = await submit(play, len(bodies), merge=CONCAT)
    await run_stage(play, bucket, layout, job_id, bodies)
    return job_id


async def run_again(context: Context, play: Play, merger: Merger, job_id: UUID, stage: int = 0) -> list[ClaimedTask]:
    """The merge finds what is lost, and a worker claims the tasks that have to make it again."""

    async def reopened() -> bool:
        return "ready" in await play.states(job_id, stage)

    await drive(context, finish.step, merger.step, until=reopened)
    return await play.run(await play.register(), job_id, stage)


LOST = {"gone": None, "shorter": b"b", "overwritten": b"xxx"}


@pytest.mark.both_emulators()
@pytest.mark.parametrize("now", LOST.values(), ids=LOST)
async def test_an_output_that_the_merge_finds_lost_is_made_again(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, now: bytes | None
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"bbb", b"cc", b"d"])
    lost = layout.attempt(job_id, 0, 1, 1, "out.csv")
    await bucket.delete(lost.uri)
    await bucket.delete(layout.attempt(job_id, 0, 3, 1, "out.csv").uri)  # found by looking at those beside it
    if now is not None:
        await bucket.put(lost.key, now)

    again = await run_again(context, play, merger, job_id)
    assert [(task.index, task.attempt) for task in again] == [(1, 2), (3, 2)]
    await assert_invariants(context.database, job_id)
    [worker_id] = {(await play.task(job_id, task.index))["worker_id"] for task in again}
    reports = [await write(bucket, layout, task, body) for task, body in zip(again, [b"BBB", b"D"], strict=True)]
    await play.complete(worker_id, *reports, done=again)

    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"aBBBccD"}
    assert await bucket.unfinished_uploads() == []
    first, _ = await context.database.fetch("SELECT * FROM attempts WHERE index = 1 ORDER BY attempt")
    assert (first["outcome"], first["error"]["type"]) == ("succeeded", "output_lost")
    assert lost.uri in first["error"]["message"]


async def test_rejects_of_an_earlier_stage_are_made_again_before_the_merge_goes_on(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await submit(play, 1, stages=2, merge=CONCAT)

    async def run_first(worker_id: UUID, tasks: Sequence[ClaimedTask]) -> str:
        [task] = tasks
        report = await write(bucket, layout, task, b"a")
        rejects = await put_output(bucket, layout, task, "rejects.jsonl", b"{}\n")
        assert report.output is not None
        report.output |= {"rejects": rejects["uri"], "rejects_bytes": 3, "rejects_crc32": rejects["crc32"]}
        await play.complete(worker_id, report, done=tasks)
        return str(rejects["uri"])

    worker_id = await play.register()
    await bucket.delete(await run_first(worker_id, await play.run(worker_id, job_id)))
    await run_stage(play, bucket, layout, job_id, [b"b"], stage=1)

    [task] = await run_again(context, play, merger, job_id)
    assert (await play.stage(job_id, 1))["state"] == "waiting"
    await renew.step(context)
    await merger.step(context)
    assert (await play.stage(job_id, 1))["state"] == "waiting"
    await run_first((await play.task(job_id, 0))["worker_id"], [task])

    assert (await finish_job(context, play, job_id, merger.step, renew.step))["state"] == "succeeded"
    files, _ = await read(bucket, await results(play, job_id, 1))
    assert files == {"all.csv": b"b", "rejects.jsonl": b"{}\n"}


async def test_an_output_that_is_lost_again_and_again_fails_the_job_until_its_user_retries_it(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a"])
    for attempt in range(1, 4):
        await bucket.delete(layout.attempt(job_id, 0, 0, attempt, "out.csv").uri)
        [task] = await run_again(context, play, merger, job_id)
        worker_id = (await play.task(job_id, 0))["worker_id"]
        await play.complete(worker_id, await write(bucket, layout, task, b"a"), done=[task])
    lost = layout.attempt(job_id, 0, 0, 4, "out.csv").uri
    await bucket.delete(lost)

    job = await finish_job(context, play, job_id, merger.step)

    assert (job["state"], job["error"]["type"], job["error"]["stage"]) == ("failed", "merge_failed", 0)
    assert f"{lost} is gone or damaged again, after task 0/0 has made it 4 times" in job["error"]["message"]

    await play.order(jobs.retry_job, job_id)
    [task] = await run_again(context, play, merger, job_id)
    worker_id = (await play.task(job_id, 0))["worker_id"]
    await play.complete(worker_id, await write(bucket, layout, task, b"a"), done=[task])
    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"


async def test_a_result_that_s3_would_not_take_fails_the_job_with_the_fix(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "OBJECT_BYTES_MAX", 29)
    job_id = await concatenated(play, bucket, layout, [b"x" * 10] * 3)

    job = await finish_job(context, play, job_id, merger.step)

    assert (job["state"], job["error"]["type"]) == ("failed", "merge_failed")
    assert "would have 30 bytes; S3 takes 29; merge by a reduce" in job["error"]["message"]
    assert await bucket.unfinished_uploads() == []


@pytest.mark.both_emulators()
async def test_a_bucket_of_the_users_that_is_gone_fails_the_job_and_it_can_be_retried(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    theirs = f"{bucket.name}-theirs"
    job_id = await submit(play, 2, merge=CONCAT, results=f"s3://{theirs}/")
    await run_stage(play, bucket, layout, job_id, [b"a", b"b"])

    job = await finish_job(context, play, job_id, merger.step)

    assert (job["state"], job["error"]["type"]) == ("failed", "merge_failed")
    assert "a result can't be written" in job["error"]["message"]

    await bucket.s3.create_bucket(Bucket=theirs)
    await play.order(jobs.retry_job, job_id)
    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_a_merge_that_breaks_in_an_unforeseen_way_fails_its_job(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(merge_module, "write_manifest", broken)
    job_id = await concatenated(play, bucket, layout, [b"a"])

    job = await finish_job(context, play, job_id, merger.step)

    assert (job["error"]["type"], "surprise" in job["error"]["message"]) == ("merge_failed", True)


async def test_a_merge_of_the_next_release_is_left_to_its_schedulers_and_its_fields_are_ignored(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"b"])
    change = "UPDATE jobs SET spec = jsonb_set(spec, $2::text[], $3) WHERE job_id = $1"
    await play.database.execute(change, job_id, ["merge", "field_of_the_next_release"], True)
    await play.database.execute(change, job_id, ["merge", "type"], "braid")

    async def was_put_off() -> bool:
        return bool((await play.stage(job_id))["put_off_at"])

    await drive(context, finish.step, merger.step, until=was_put_off)
    assert (await play.job(job_id))["state"] == "running"
    await play.database.execute(change, job_id, ["merge", "type"], "concat")

    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_an_outage_of_s3_puts_the_merge_off(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = await concatenated(play, bucket, layout, [b"a", b"b"])
    plain = context.aws.s3.put_object
    down = [ClientError({"Error": {"Code": "SlowDown", "Message": ""}}, "PutObject"), OSError("unreachable")]

    async def put_object(**arguments: Any) -> Any:
        if down:
            raise down.pop()
        return await plain(**arguments)

    monkeypatch.setattr(context.aws.s3, "put_object", put_object)

    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
    assert not down
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_many_merges_that_are_always_put_off_hold_up_no_other(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    *unlucky, lucky = [await submit(play, 1, priority=int(n < 20)) for n in range(21)]
    for job_id in (*unlucky, lucky):
        await run_stage(play, bucket, layout, job_id, [b"a"])

    async def unreachable(pool: Any, aws: Any, target: Location, job: dict[str, Any], *facts: Any) -> Any:
        if job["job_id"] != lucky:
            raise TimeoutError
        return await write_manifest(pool, aws, target, job, *facts)

    monkeypatch.setattr(merge_module, "write_manifest", unreachable)

    assert (await finish_job(context, play, lucky, merger.step))["state"] == "succeeded"
    assert {(await play.job(job_id))["state"] for job_id in unlucky} == {"running"}


def hold_manifests(monkeypatch: pytest.MonkeyPatch, held: set[UUID]) -> tuple[list[UUID], asyncio.Event]:
    """The merges of these jobs stand still before their manifest; gives those that do, and what lets them go on."""
    standing: list[UUID] = []
    go_on = asyncio.Event()

    async def hold(pool: Any, aws: Any, target: Location, job: dict[str, Any], *facts: Any) -> Any:
        if job["job_id"] in held and not go_on.is_set():
            standing.append(job["job_id"])
            await go_on.wait()
        return await write_manifest(pool, aws, target, job, *facts)

    monkeypatch.setattr(merge_module, "write_manifest", hold)
    return standing, go_on


async def merging_jobs(context: Context, play: Play, bucket: Bucket, layout: Layout, count: int) -> list[UUID]:
    """Jobs that wait for their merge."""
    merging = [await concatenated(play, bucket, layout, [b"a%d" % n, b"b"]) for n in range(count)]
    while len(await play.database.fetch("SELECT FROM stages WHERE state = 'merging'")) < count:
        await finish.step(context)
    return merging


async def test_schedulers_add_capacity_for_merges(
    context: Context,
    other: Context,
    play: Play,
    bucket: Bucket,
    layout: Layout,
    merger: Merger,
    merger2: Merger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(merge_module, "SMALL_AT_ONCE", 2)
    merging = await merging_jobs(context, play, bucket, layout, 5)
    standing, _ = hold_manifests(monkeypatch, set(merging))

    async def all_places_taken() -> bool:
        return len(standing) == 4

    for _ in range(3):
        await merger.step(context)
        await merger2.step(other)
    await until(all_places_taken)

    assert len(set(standing)) == 4, "no two of them have the same"


async def test_the_merges_of_a_scheduler_that_hangs_are_taken_over_and_count_once(
    context: Context,
    other: Context,
    play: Play,
    bucket: Bucket,
    layout: Layout,
    merger: Merger,
    merger2: Merger,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await add_endpoint(play)
    [job_id] = await merging_jobs(context, play, bucket, layout, 1)
    standing, go_on = hold_manifests(monkeypatch, {job_id})

    async def under_way() -> bool:
        return standing == [job_id]

    await drive(context, merger.step, until=under_way)
    await merger2.step(other)
    assert not merger2._running, "not before its lease ends"
    go_on.set()
    [hung] = [merge.task for merge in merger._running.values()]
    await play.database.execute("UPDATE stages SET merge_until = now() - interval '1 second'")
    await merger2.step(other)
    taken = await play.database.fetchval("SELECT merge_id FROM stages WHERE job_id = $1", job_id)
    assert taken in merger2._running
    await asyncio.gather(hung, *(merge.task for merge in merger2._running.values()))

    assert (await play.job(job_id))["state"] == "succeeded"
    assert await play.database.fetchval("SELECT count(*) FROM webhook_deliveries") == 1
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"a0b"}


async def test_a_merge_that_has_lost_its_lease_stops(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    [job_id] = await merging_jobs(context, play, bucket, layout, 1)
    standing, _ = hold_manifests(monkeypatch, {job_id})

    async def under_way() -> bool:
        return standing == [job_id]

    await drive(context, merger.step, until=under_way)
    before = await play.stage(job_id)
    merger._renewed = 0.0
    await merger.step(context)
    assert (await play.stage(job_id))["merge_until"] > before["merge_until"]

    other_lease = {"merge_id": new_id(), "merge_until": before["merge_until"] + timedelta(hours=1)}
    await play.database.execute("UPDATE stages SET merge_id = $1, merge_until = $2", *other_lease.values())
    merger._renewed = 0.0

    async def stopped() -> bool:
        return not merger._running

    await drive(context, merger.step, until=stopped)
    after = await play.stage(job_id)
    assert {name: after[name] for name in other_lease} == other_lease
    assert (await play.job(job_id))["state"] == "running"


async def test_merges_that_last_take_no_places_of_small_ones(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_module, "SMALL_AT_ONCE", 2)
    monkeypatch.setattr(merge_module, "LONG_SECONDS", 0.0)
    monkeypatch.setattr(merge_module, "SMALL_TASKS_MAX", 2)
    held = await merging_jobs(context, play, bucket, layout, 6)
    await play.database.execute("UPDATE stages SET task_count = 3 WHERE job_id = ANY($1)", held[:3])  # large ones
    hold_manifests(monkeypatch, set(held))
    for _ in range(4):
        await merger.step(context)

    small = await concatenated(play, bucket, layout, [b"x", b"y"])

    assert (await finish_job(context, play, small, merger.step))["state"] == "succeeded"


async def test_a_stage_that_a_session_holds_blocks_the_merge_of_no_other(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger
) -> None:
    held = await merging_jobs(context, play, bucket, layout, 3)
    async with play.database.acquire() as connection, connection.transaction():
        await connection.execute("SELECT FROM stages WHERE job_id = ANY($1) FOR UPDATE", held)
        free = await concatenated(play, bucket, layout, [b"x", b"y"])
        assert (await finish_job(context, play, free, merger.step))["state"] == "succeeded"

    for job_id in held:
        assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"


async def test_a_merge_that_dies_is_done_again_and_leaves_no_unfinished_upload(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger2: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES_MIN", 10)
    job_id = await concatenated(play, bucket, layout, [b"x" * 30, b"y" * 30])
    died = asyncio.Event()

    async def hang(**_: Any) -> None:
        died.set()
        await asyncio.Event().wait()

    async def nothing(**_: Any) -> None:
        """A process that is killed aborts nothing."""

    with monkeypatch.context() as dying:
        dying.setattr(context.aws.s3, "complete_multipart_upload", hang)
        dying.setattr(context.aws.s3, "abort_multipart_upload", nothing)
        merger = Merger()

        async def hanging() -> bool:
            return died.is_set()

        await drive(context, finish.step, merger.step, until=hanging)
        await merger.stop()
    assert await bucket.unfinished_uploads() == [layout.result(job_id, "all.csv").key]

    assert (await finish_job(context, play, job_id, merger2.step))["state"] == "succeeded"
    assert await bucket.unfinished_uploads() == []
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"x" * 30 + b"y" * 30}


async def test_a_merge_that_is_stopped_leaves_nothing_behind(
    context: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multipart, "PART_BYTES_MIN", 10)
    job_id = await concatenated(play, bucket, layout, [b"x" * 30, b"y" * 30])
    reached = asyncio.Event()

    async def hang(**_: Any) -> None:
        reached.set()
        await asyncio.Event().wait()

    with monkeypatch.context() as hanging:
        hanging.setattr(context.aws.s3, "complete_multipart_upload", hang)

        async def under_way() -> bool:
            return reached.is_set()

        await drive(context, finish.step, merger.step, until=under_way)
        assert await bucket.unfinished_uploads() != []
        await merger.stop()

    assert await bucket.unfinished_uploads() == []
    assert (await play.stage(job_id))["state"] == "merging"
    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"


async def add_endpoint(play: Play) -> None:
    await play.database.execute(
        "INSERT INTO webhook_endpoints (endpoint_id, url, secret) VALUES ($1, 'https://example.com', 's')", new_id()
    )


async def test_two_schedulers_merge_each_job_once(
    context: Context, other: Context, play: Play, bucket: Bucket, layout: Layout, merger: Merger, merger2: Merger
) -> None:
    await add_endpoint(play)
    merging = [await concatenated(play, bucket, layout, [b"a%d" % n, b"b"]) for n in range(6)]

    async def ended() -> bool:
        await asyncio.gather(finish.step(context), finish.step(other), merger.step(context), merger2.step(other))
        states = [(await play.job(job_id))["state"] for job_id in merging]
        return states == ["succeeded"] * 6

    await until(ended)

    for n, job_id in enumerate(merging):
        assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"a%db" % n}
        await assert_invariants(play.database, job_id)
    deliveries = await play.database.fetch("SELECT job_id, event, payload FROM webhook_deliveries")
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
    context: Context,
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

    await drive(context, finish.step, merger.step, until=obeyed)
    assert await results(play, job_id) is None

    await play.order(undo, job_id)
    assert (await finish_job(context, play, job_id, merger.step))["state"] == "succeeded"
    assert (await read(bucket, await results(play, job_id)))[0] == {"all.csv": b"ab"}


async def test_a_merge_that_has_missed_a_retry_does_not_end_the_job(
    context: Context,
    other: Context,
    play: Play,
    bucket: Bucket,
    layout: Layout,
    merger: Merger,
    monkeypatch: pytest.MonkeyPatch,
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

    await drive(context, finish.step, merger.step, until=succeeded)

    files, manifest = await read(bucket, await results(play, job_id))
    assert files == {"all.csv": b"ab"}
    assert len(manifest["parts"]) == 2
